//! Control groups of containers, and their counters.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use runtime_core::ContainerId;

/// Counters of the kernel for one container, as pairs of bytes in and bytes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct KernelCounters {
    /// Bytes received and sent on all interfaces except for loopback.
    pub(crate) network: Option<(u64, u64)>,
    /// Bytes read from and written to block devices.
    pub(crate) block: Option<(u64, u64)>,
}

/// Control group of a container that counts block I/O.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cgroup {
    path: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// Cache of the control groups of containers, and totals of the host.
#[derive(Debug, Default)]
pub(crate) struct Cgroups {
    state: Mutex<State>,
    host_cpus: OnceLock<Option<f64>>,
    host_memory: OnceLock<Option<u64>>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<ContainerId, Cgroup>,
    /// Text before and after the id in a path that was found.
    shape: Option<(String, String, Version)>,
}

impl Cgroups {
    /// Returns the control group of a container, if it is cached or has a path like those of
    /// others.
    pub(crate) fn get(&self, id: &ContainerId) -> Option<Cgroup> {
        let mut state = self.lock();
        if let Some(known) = state.known.get(id) {
            return Some(known.clone());
        }
        let (before, after, version) = state.shape.clone()?;
        let path = PathBuf::from(format!("{before}{id}{after}"));
        if !path.is_dir() {
            return None;
        }
        let place = Cgroup { path, version };
        state.known.insert(id.clone(), place.clone());
        Some(place)
    }

    /// Finds and caches the control group of a container by one of its processes.
    pub(crate) fn find(&self, id: &ContainerId, pid: i32) -> Option<Cgroup> {
        let of_process = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let place = find(&of_process, &mounts)?;
        let path = place.path.to_str()?;
        // Without the id in the path, the PID belongs to another process by now.
        let (before, after) = path.split_once(id.as_str())?;
        let mut state = self.lock();
        state.shape = Some((before.to_owned(), after.to_owned(), place.version));
        state.known.insert(id.clone(), place.clone());
        Some(place)
    }

    /// Evicts a container.
    pub(crate) fn remove(&self, id: &ContainerId) {
        self.lock().known.remove(id);
    }

    /// Evicts all containers for which `is_there` is false.
    pub(crate) fn retain(&self, is_there: impl Fn(&ContainerId) -> bool) {
        self.lock().known.retain(|id, _| is_there(id));
    }

    /// Returns the number of CPUs of the host.
    pub(crate) fn host_cpus(&self) -> Option<f64> {
        *self.host_cpus.get_or_init(|| {
            let online = fs::read_to_string("/sys/devices/system/cpu/online").ok()?;
            count_list(online.trim()).map(f64::from)
        })
    }

    /// Returns the memory of the host in bytes.
    pub(crate) fn host_memory(&self) -> Option<u64> {
        *self.host_memory.get_or_init(|| {
            let text = fs::read_to_string("/proc/meminfo").ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cgroup {
    /// Reads the counters. Counters that the kernel does not have are absent.
    pub(crate) fn read(&self) -> KernelCounters {
        let file = |name: &str| fs::read_to_string(self.path.join(name)).ok();
        let block = match self.version {
            Version::V1 => file("blkio.throttle.io_service_bytes_recursive")
                .or_else(|| file("blkio.throttle.io_service_bytes"))
                .map(|text| blkio(&text)),
            Version::V2 => file("io.stat").map(|text| io_stat(&text)),
        };
        // All processes of the container share its network.
        let network = file("cgroup.procs")
            .and_then(|text| text.lines().next().map(str::to_owned))
            .and_then(|pid| fs::read_to_string(format!("/proc/{pid}/net/dev")).ok())
            .map(|text| net_dev(&text));
        KernelCounters { network, block }
    }
}

/// Returns the control group for the content of `/proc/PID/cgroup` and `/proc/self/mountinfo`.
pub(crate) fn find(of_process: &str, mounts: &str) -> Option<Cgroup> {
    let mut unified = None;
    for line in of_process.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        if controllers.split(',').any(|controller| controller == "blkio") {
            let mount = mounted(mounts, "cgroup", Some("blkio"))?;
            return Some(Cgroup { path: below(&mount, path), version: Version::V1 });
        }
        if controllers.is_empty() {
            unified = Some(path);
        }
    }
    let mount = mounted(mounts, "cgroup2", None)?;
    Some(Cgroup { path: below(&mount, unified?), version: Version::V2 })
}

fn below(mount: &Path, path: &str) -> PathBuf {
    mount.join(path.trim_start_matches('/'))
}

/// Returns the mount point of a file system of this kind with this option.
fn mounted(mounts: &str, kind: &str, option: Option<&str>) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (place, file_system) = line.split_once(" - ")?;
        let mut file_system = file_system.split(' ');
        let fits = file_system.next() == Some(kind)
            && option.is_none_or(|option| {
                file_system.nth(1).is_some_and(|all| all.split(',').any(|one| one == option))
            });
        fits.then(|| place.split(' ').nth(4).map(PathBuf::from)).flatten()
    })
}

/// Sums lines of the form `8:0 Read 4096`, one for each device and direction.
pub(crate) fn blkio(text: &str) -> (u64, u64) {
    let mut sums = (0_u64, 0_u64);
    for line in text.lines() {
        let mut words = line.split_whitespace().skip(1);
        let (direction, bytes) = (words.next(), words.next().and_then(|n| n.parse().ok()));
        match (direction, bytes) {
            (Some("Read"), Some(bytes)) => sums.0 = sums.0.saturating_add(bytes),
            (Some("Write"), Some(bytes)) => sums.1 = sums.1.saturating_add(bytes),
            _ => {}
        }
    }
    sums
}

/// Sums lines of the form `8:0 rbytes=4096 wbytes=0 rios=1 …`, one for each device.
pub(crate) fn io_stat(text: &str) -> (u64, u64) {
    let mut sums = (0_u64, 0_u64);
    for word in text.split_whitespace() {
        match word.split_once('=').and_then(|(key, value)| Some((key, value.parse().ok()?))) {
            Some(("rbytes", bytes)) => sums.0 = sums.0.saturating_add(bytes),
            Some(("wbytes", bytes)) => sums.1 = sums.1.saturating_add(bytes),
            _ => {}
        }
    }
    sums
}

/// Sums the first and the ninth of the 16 numbers of each interface, after two lines of heading.
pub(crate) fn net_dev(text: &str) -> (u64, u64) {
    let mut sums = (0_u64, 0_u64);
    for line in text.lines() {
        let Some((name, numbers)) = line.split_once(':') else { continue };
        if name.trim() == "lo" {
            continue;
        }
        let mut numbers = numbers.split_whitespace().map(|number| number.parse().unwrap_or(0));
        sums.0 = sums.0.saturating_add(numbers.next().unwrap_or(0));
        sums.1 = sums.1.saturating_add(numbers.nth(7).unwrap_or(0));
    }
    sums
}

/// Returns how many numbers a list such as `0-3,5` has.
pub(crate) fn count_list(list: &str) -> Option<u32> {
    list.split(',').try_fold(0_u32, |count, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        count.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parsers_do_not_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            table in "([0-9]{1,21}|8:0|eth0:|lo:|blkio|cgroup2?|Read|Write|[rw]bytes=| - |[ ,:=/\n-]){0,40}",
        ) {
            for text in [&String::from_utf8_lossy(&bytes), table.as_str()] {
                blkio(text);
                io_stat(text);
                net_dev(text);
                count_list(text);
                find(text, text);
            }
        }
    }

    #[test]
    fn tables_of_the_kernel_are_summed() {
        let text = "8:0 Read 10\n8:0 Write 3\n8:0 Sync 13\n8:16 Read 5\nTotal 18\n";
        assert_eq!(blkio(text), (15, 3));
        assert_eq!(blkio(""), (0, 0));
        assert_eq!(io_stat("8:0 rbytes=1 wbytes=2 rios=9\n8:16 rbytes=3 wbytes=4\n"), (4, 6));
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets|bytes packets\n\
                    lo: 7 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0\n\
                    eth0: 100 2 0 0 0 0 0 0 200 3 0 0 0 0 0 0\n\
                    eth1:1 2 0 0 0 0 0 0 2 3 0 0 0 0 0 0\n";
        assert_eq!(net_dev(text), (101, 202));
    }

    #[test]
    fn find_supports_both_versions() {
        let mounts = "31 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      35 25 0:32 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n";
        let v1 = find("7:blkio:/k8s.io/abc\n0::/k8s.io/abc\n", mounts).unwrap();
        assert_eq!(v1.path, Path::new("/sys/fs/cgroup/blkio/k8s.io/abc"));
        assert_eq!(v1.version, Version::V1);
        let v2 = find("0::/kube/abc\n", mounts).unwrap();
        assert_eq!(v2.path, Path::new("/sys/fs/cgroup/unified/kube/abc"));
        assert_eq!(v2.version, Version::V2);
        assert_eq!(find("1:cpu:/x\n", mounts), None);
    }

    #[test]
    fn count_list_counts_ranges() {
        for (list, count) in [("0", Some(1)), ("0-3", Some(4)), ("0-1,4,6-7", Some(5))] {
            assert_eq!(count_list(list), count);
        }
        assert_eq!(count_list("x"), None);
        assert_eq!(count_list("3-1"), None);
    }
}
