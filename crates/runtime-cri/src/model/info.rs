//! Conversion of lists and statuses of the engine.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use runtime_core::{
    ContainerId, ContainerInfo, ContainerStatus, Error, ErrorKind, Exit, ExitReason, ImageInfo,
    LabelFilter, Result,
};

use super::annotations::Annotations;
use crate::generated as cri;

/// Converts a container of a list.
pub(crate) fn from_list(container: &cri::Container) -> ContainerInfo {
    let name = container.metadata.as_ref().map(|metadata| metadata.name.as_str());
    let annotations = Annotations::read(&container.annotations).unwrap_or_default();
    let mut info = ContainerInfo::new(
        ContainerId::new(&container.id),
        name.unwrap_or_default(),
        status(container.state()),
    );
    info.created_at = time(container.created_at);
    info.labels = annotations.spec_labels(&container.labels);
    fill(&mut info, &annotations);
    info
}

/// Converts the status of a container.
pub(crate) fn from_status(container: &cri::ContainerStatus, stopped_by_us: bool) -> ContainerInfo {
    let name = container.metadata.as_ref().map(|metadata| metadata.name.as_str());
    let annotations = Annotations::read(&container.annotations).unwrap_or_default();
    let mut info = ContainerInfo::new(
        ContainerId::new(&container.id),
        name.unwrap_or_default(),
        status(container.state()),
    );
    info.created_at = time(container.created_at);
    info.ended_at = time(container.finished_at);
    info.started_at = time(container.started_at);
    if let (Some(started), Some(ended)) = (info.started_at, info.ended_at) {
        // containerd records the start when its call returns, which can be after the end.
        info.started_at = Some(started.min(ended));
    }
    info.exit = exit(container, stopped_by_us);
    info.message = Some(container.message.clone()).filter(|message| !message.is_empty());
    info.labels = annotations.spec_labels(&container.labels);
    fill(&mut info, &annotations);
    if info.image.requested.is_none() {
        // A container of another program has no annotations.
        info.image.requested = container.image.as_ref().map(|image| image.image.clone());
        info.image.resolved = Some(container.image_ref.clone()).filter(|image| !image.is_empty());
    }
    info
}

fn fill(info: &mut ContainerInfo, annotations: &Annotations) {
    info.image = ImageInfo::default();
    info.image.requested = Some(annotations.image.clone()).filter(|image| !image.is_empty());
    info.image.resolved.clone_from(&annotations.resolved);
    info.image.id.clone_from(&annotations.image_id);
    info.memory = annotations.memory;
    info.cpu_count = annotations.cpu_count;
    if info.status == ContainerStatus::Running {
        info.tcp_ports.clone_from(&annotations.ports);
    }
}

/// Converts the state of a container. A container in an unknown state counts as exited.
pub(crate) const fn status(state: cri::ContainerState) -> ContainerStatus {
    match state {
        cri::ContainerState::ContainerCreated => ContainerStatus::Created,
        cri::ContainerState::ContainerRunning => ContainerStatus::Running,
        cri::ContainerState::ContainerExited | cri::ContainerState::ContainerUnknown => {
            ContainerStatus::Exited
        }
    }
}

/// Returns an error unless the container is running.
///
/// # Errors
/// `NotStarted` if it is created, `InvalidState` if it has exited.
pub(crate) fn require_running(container: &cri::ContainerStatus) -> Result<()> {
    match status(container.state()) {
        ContainerStatus::Running => Ok(()),
        ContainerStatus::Created => Err(Error::new(ErrorKind::NotStarted)),
        ContainerStatus::Exited => {
            Err(Error::new(ErrorKind::InvalidState).with_message("the container has ended"))
        }
    }
}

/// Reason that engines report if the memory limit contributed to the end.
pub(crate) const OUT_OF_MEMORY: &str = "OOMKilled";

/// Exit code of a killed process: 128 and the number of the signal.
const KILLED_CODE: i32 = 137;

/// Returns the exit of a container, or `None` if it has not exited.
pub(crate) fn exit(container: &cri::ContainerStatus, stopped_by_us: bool) -> Option<Exit> {
    let code = container.exit_code;
    let exit = match (container.state(), container.reason.as_str()) {
        (cri::ContainerState::ContainerCreated | cri::ContainerState::ContainerRunning, _) => {
            return None;
        }
        (cri::ContainerState::ContainerUnknown, _) => Exit::new(ExitReason::Unknown),
        // Reasons of containerd. Exit code 128 is set by containerd, not by the process.
        (_, "StartError" | "ContainerCannotRun") => Exit::new(ExitReason::StartFailed),
        // containerd was down at the end. Exit code 255 is set by containerd, not by the process.
        (_, "Unknown") if code == 255 => Exit::new(ExitReason::Unknown),
        // Any process of the container may have run out of memory. If the main process has another
        // code, it ended by itself.
        (_, OUT_OF_MEMORY) if code == KILLED_CODE => {
            Exit::from_code(code).with_reason(ExitReason::OutOfMemory)
        }
        _ if stopped_by_us => Exit::from_code(code).with_reason(ExitReason::StoppedByUs),
        _ => Exit::from_code(code),
    };
    Some(exit.with_ended_at(time(container.finished_at)).with_message(container.message.as_str()))
}

/// Converts nanoseconds since 1970. Engines send 0 or less for an absent time.
pub(crate) fn time(nanos: i64) -> Option<SystemTime> {
    let nanos = u64::try_from(nanos).ok().filter(|nanos| *nanos > 0)?;
    UNIX_EPOCH.checked_add(Duration::from_nanos(nanos))
}

/// Returns whether a container has the labels of a filter.
pub(crate) fn has_labels(info: &ContainerInfo, wanted: &LabelFilter) -> bool {
    runtime_support::has_labels(wanted, |key| info.labels.get(key).map(String::as_str))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use runtime_core::{Signal, TcpPortBinding};

    use super::*;

    fn ended(reason: &str, code: i32) -> cri::ContainerStatus {
        cri::ContainerStatus {
            id: "1".to_owned(),
            state: cri::ContainerState::ContainerExited.into(),
            finished_at: 5,
            exit_code: code,
            reason: reason.to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn exit_maps_reasons_and_codes() {
        use ExitReason::{Exited, OutOfMemory, Signaled, StartFailed, StoppedByUs, Unknown};
        for (reason, code, stopped, expected_reason, expected_code) in [
            ("Completed", 0, false, Exited, Some(0)),
            ("Error", 1, false, Exited, Some(1)),
            ("Error", 137, false, Signaled, Some(137)),
            ("Error", 143, true, StoppedByUs, Some(143)),
            ("Completed", 0, true, StoppedByUs, Some(0)),
            ("OOMKilled", 137, false, OutOfMemory, Some(137)),
            ("OOMKilled", 0, false, Exited, Some(0)),
            ("OOMKilled", 1, false, Exited, Some(1)),
            ("OOMKilled", 143, true, StoppedByUs, Some(143)),
            ("OOMKilled", 137, true, OutOfMemory, Some(137)),
            ("StartError", 128, false, StartFailed, None),
            ("Unknown", 255, false, Unknown, None),
            ("Error", 255, false, Exited, Some(255)),
        ] {
            let exit = exit(&ended(reason, code), stopped).unwrap();
            assert_eq!(
                (exit.reason, exit.code),
                (expected_reason, expected_code),
                "{reason} {code}"
            );
            assert_eq!(exit.ended_at, time(5));
        }
        assert_eq!(exit(&ended("Error", 137), false).unwrap().signal, Some(Signal::KILL));
        let lost = cri::ContainerStatus {
            state: cri::ContainerState::ContainerUnknown.into(),
            ..Default::default()
        };
        assert_eq!(exit(&lost, false).unwrap().reason, Unknown);
    }

    #[test]
    fn start_is_not_after_the_end() {
        let container = cri::ContainerStatus { started_at: 9, ..ended("Completed", 0) };
        assert_eq!(from_status(&container, false).started_at, time(5));
    }

    #[test]
    fn running_container_has_no_exit_and_no_zero_times() {
        for (state, status) in [
            (cri::ContainerState::ContainerCreated, ContainerStatus::Created),
            (cri::ContainerState::ContainerRunning, ContainerStatus::Running),
        ] {
            let container = cri::ContainerStatus { state: state.into(), ..Default::default() };
            let info = from_status(&container, false);
            assert_eq!((info.status, info.exit), (status, None));
            assert_eq!((info.created_at, info.started_at, info.ended_at), (None, None, None));
        }
        assert_eq!(time(-1), None);
    }

    #[test]
    fn list_entry_is_completed_from_annotations() {
        let annotations = Annotations {
            image: "r.io/a:1".to_owned(),
            ports: vec![TcpPortBinding { host_port: 40000, container_port: 80 }],
            memory: Some(7),
            ..Annotations::default()
        };
        let mut container = cri::Container {
            id: "1".to_owned(),
            annotations: annotations.to_map(),
            labels: BTreeMap::from([
                ("a".to_owned(), "b".to_owned()),
                ("container-runtime/scope".to_owned(), "s".to_owned()),
            ]),
            state: cri::ContainerState::ContainerRunning.into(),
            ..Default::default()
        };
        let info = from_list(&container);
        assert_eq!(info.tcp_ports, annotations.ports);
        assert_eq!(info.memory, Some(7));
        assert_eq!(info.image.requested.as_deref(), Some("r.io/a:1"));
        assert_eq!(info.labels.len(), 1);
        container.set_state(cri::ContainerState::ContainerExited);
        assert!(from_list(&container).tcp_ports.is_empty());
    }
}
