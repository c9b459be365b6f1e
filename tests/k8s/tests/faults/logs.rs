//! The node rotates logs while they are followed.

use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use runtime_conformance::BoxError;
use runtime_core::{Container, Follow, LogOptions};
use test_support::Connection as _;

use super::support::{Outcome, Subject};

const SETTING: &str = "containerLogMaxSize";
const DEFAULT: &str = "10Mi";

/// More than a small file, and so rotated at the kubelet's next check, within ten seconds. Few enough bytes
/// to be read before that on a busy machine.
const WRITTEN: usize = 110_000;

/// A container writes nothing after its log is rotated, for longer than a file is kept: nothing is missing,
/// neither at its end nor before the line that it writes much later.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_rotated_under_a_silent_container() -> Outcome {
    let subject = Subject::new().await?;
    set(&subject, "100Ki").await?;
    let followed = follow_all(&subject).await;
    set(&subject, DEFAULT).await?;
    followed?;
    subject.finish().await
}

async fn set(subject: &Subject, size: &'static str) -> Outcome {
    subject.work(move |cluster| Ok(cluster.set_kubelet(SETTING, size.into())?)).await
}

async fn follow_all(subject: &Subject) -> Outcome {
    let script = |last: &str| {
        subject.script(&format!("yes 0123456789 | head -c {WRITTEN}; sleep 30; printf '{last}'"))
    };
    let containers = [subject.start(&script("")).await?, subject.start(&script("last")).await?];
    let [silent, late] = &containers;
    let (silent, late) = tokio::join!(end_of(&**silent), end_of(&**late));
    assert_eq!(silent?, (WRITTEN, "0123456789\n".to_owned()));
    assert_eq!(late?, (WRITTEN + 4, "last".to_owned()));
    for container in containers {
        let files = log_files(&subject.environment.node_logs, container.id().as_str())?;
        assert!(files.len() > 1, "the log was not rotated: {files:?}");
        container.remove().await?;
    }
    Ok(())
}

/// Follows a log to its end, and returns its length and its last line.
async fn end_of(container: &dyn Container) -> Result<(usize, String), BoxError> {
    let mut reader = container.logs(LogOptions::default().follow(Follow::Yes)).await?;
    let (mut length, mut last) = (0, String::new());
    while let Some(record) = reader.next().await {
        let bytes = record?.bytes;
        length += bytes.len();
        last = String::from_utf8_lossy(&bytes).into_owned();
    }
    Ok((length, last))
}

/// Returns the log files of a container on the node.
fn log_files(node_logs: &Path, id: &str) -> Result<Vec<PathBuf>, BoxError> {
    let entries = |directory: &Path| {
        let entries = std::fs::read_dir(directory)?.map(|entry| Ok(entry?.path()));
        entries.collect::<std::io::Result<Vec<_>>>()
    };
    let mut files = Vec::new();
    for pod in entries(node_logs)?.iter().filter(|path| path.to_string_lossy().contains(id)) {
        for container in entries(pod)? {
            files.extend(entries(&container)?);
        }
    }
    Ok(files)
}
