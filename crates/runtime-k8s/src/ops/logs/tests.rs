use std::sync::{Arc, Mutex};

use futures_util::StreamExt as _;
use runtime_core::{Capabilities, ErrorKind, LogOptions, Result, Scope};

use crate::client::Client;
use crate::model::capabilities::Server;
use crate::model::container::KubernetesContainer;
use crate::options::KubernetesOptions;
use crate::state::KubernetesBackend;

const ENDED: &str = r#"{"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [{"name": "main"}]},
    "status": {"phase": "Succeeded", "containerStatuses": [{"name": "main", "state": {"terminated":
    {"exitCode": 0, "startedAt": "2026-11-23T17:00:00Z", "finishedAt": "2026-11-23T17:10:00Z"}}}]}}"#;
const RUNNING: &str = r#"{"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [{"name": "main"}]},
    "status": {"phase": "Running", "containerStatuses": [{"name": "main", "state": {"running":
    {"startedAt": "2026-11-23T17:00:00Z"}}}]}}"#;

/// Returns a line of a log with a hundred lines a second.
fn line(number: usize) -> String {
    let (minutes, seconds, hundredths) = (number / 6000, number / 100 % 60, number % 100);
    format!("2026-11-23T17:{minutes:02}:{seconds:02}.{hundredths:02}0000000Z line {number}\n")
}

fn leak(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

/// Returns a client of a server whose log has `lines` lines, and that ends each response without an
/// error after `most` lines, and the queries for the log.
fn server(pod: &'static str, lines: usize, most: usize) -> (Client, Arc<Mutex<Vec<String>>>) {
    let sent_queries = Arc::new(Mutex::new(Vec::new()));
    let queries = Arc::clone(&sent_queries);
    let client = crate::client::tests::of(move |_, uri| {
        let Some((_, query)) = uri.split_once("/log?") else { return (200, pod) };
        queries.lock().unwrap().push(query.to_owned());
        let value = |name: &str| {
            let pairs = form_urlencoded::parse(query.as_bytes());
            pairs.into_iter().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        };
        let tail: usize = value("tailLines").map_or(lines, |tail| tail.parse().unwrap());
        let since = value("sinceTime").unwrap_or_default();
        let since = since.trim_end_matches('Z').to_owned();
        let wanted = (lines.saturating_sub(tail)..lines).map(line);
        let wanted = wanted.filter(|line| line[..19] >= *since);
        (200, leak(wanted.take(most).collect()))
    });
    (client, sent_queries)
}

async fn read(client: Client, options: LogOptions) -> Result<Vec<String>> {
    let with = KubernetesOptions::new(Scope::new("t").unwrap());
    let backend =
        Arc::new(KubernetesBackend::new(client, with, Server::default(), Capabilities::default()));
    let pod = serde_json::from_str(ENDED).unwrap();
    let container = KubernetesContainer::new(Arc::new(pod));
    let mut reader = super::open(&backend, &container, options).await?;
    let mut lines = Vec::new();
    while let Some(record) = reader.next().await {
        lines.push(String::from_utf8(record?.bytes.to_vec()).unwrap());
    }
    Ok(lines)
}

fn lines(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("line {number}\n")).collect()
}

#[tokio::test(start_paused = true)]
async fn truncated_log_is_resumed() {
    for pod in [ENDED, RUNNING] {
        let (client, sent_queries) = server(pod, 5000, 502);
        assert_eq!(read(client, LogOptions::default()).await.unwrap(), lines(0..5000));
        assert!(sent_queries.lock().unwrap().len() < 60, "{sent_queries:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn log_without_progress_is_lost() {
    for pod in [ENDED, RUNNING] {
        // A response has less than is read twice when a log is resumed.
        let (client, _) = server(pod, 5000, 90);
        let error = read(client, LogOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn complete_log_takes_one_more_request() {
    let (client, sent_queries) = server(ENDED, 100, usize::MAX);
    assert_eq!(read(client, LogOptions::default()).await.unwrap(), lines(0..100));
    let sent_queries = sent_queries.lock().unwrap();
    assert_eq!(sent_queries.len(), 2, "{sent_queries:?}");
    assert!(sent_queries[1].contains("tailLines=1"), "{sent_queries:?}");
}

#[tokio::test(start_paused = true)]
async fn tail_is_sent_to_server() {
    for tail in [1, 5, 100] {
        let (client, sent_queries) = server(ENDED, 30_000, usize::MAX);
        let read = read(client, LogOptions::default().tail(tail)).await.unwrap();
        let tail = usize::try_from(tail).unwrap();
        assert_eq!(read, lines(30_000 - tail..30_000));
        let sent_queries = sent_queries.lock().unwrap();
        assert!(sent_queries.iter().all(|query| query.contains("tailLines=")), "{sent_queries:?}");
        assert!(sent_queries.len() <= 2, "{sent_queries:?}");
    }
    // A log with fewer lines.
    let (client, _) = server(ENDED, 3, usize::MAX);
    assert_eq!(read(client, LogOptions::default().tail(10)).await.unwrap(), lines(0..3));
    let (client, _) = server(ENDED, 0, usize::MAX);
    assert!(read(client, LogOptions::default().tail(10)).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn tail_since_time_is_sent_to_server() {
    let since = std::time::SystemTime::UNIX_EPOCH
        + std::time::Duration::from_millis(1_795_453_200_000 + 299_900);
    let (client, sent_queries) = server(ENDED, 30_000, usize::MAX);
    let options = LogOptions::default().tail(5).since(since);
    assert_eq!(read(client, options).await.unwrap(), lines(29_995..30_000));
    assert!(
        sent_queries.lock().unwrap().iter().all(|query| query.contains("tailLines=")),
        "{sent_queries:?}"
    );
    // Fewer lines than requested are that new.
    let (client, _) = server(ENDED, 30_000, usize::MAX);
    let options = LogOptions::default().tail(50).since(since);
    assert_eq!(read(client, options).await.unwrap(), lines(29_990..30_000));
}
