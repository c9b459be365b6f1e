//! Cancelled operations, and their undo.

use super::*;

#[tokio::test]
async fn dropped_create_with_endless_deadlines_is_undone() {
    let go_on = Arc::new(Notify::new());
    let later = Arc::clone(&go_on);
    let fake = Fake::new(move |request, _| match request {
        "POST /v1.41/containers/create" => Reply::Later(Arc::clone(&later), 201, created()),
        _ => Reply::Json(204, String::new()),
    });
    let mut deadlines = Deadlines::default();
    for deadline in [
        &mut deadlines.connect,
        &mut deadlines.query,
        &mut deadlines.create,
        &mut deadlines.start,
        &mut deadlines.stop_margin,
        &mut deadlines.remove,
        &mut deadlines.pull_inactivity,
        &mut deadlines.pull_without_progress,
    ] {
        *deadline = Duration::MAX;
    }
    let host = format!("unix://{}", fake.socket().display());
    let runtime = connect(&host, deadlines).await.unwrap();
    let creating = tokio::spawn({
        let runtime = runtime.clone();
        async move { runtime.create_container(&spec()).await }
    });
    fake.until_seen("POST /v1.41/containers/create", 1).await;
    creating.abort();
    assert!(creating.await.unwrap_err().is_cancelled());
    go_on.notify_one();
    fake.until_seen(&format!("DELETE /v1.41/containers/{ID}"), 1).await;
    runtime.close().await.unwrap();
}
