//! Waits whose container is removed while they are resolved.

use super::*;

#[tokio::test]
async fn wait_returns_exit_of_container_removed_before_inspection() {
    // The exit code 137 may be that of the removal, so it is not attributed to the container.
    for (code, end) in [(137, (ExitReason::Removed, None)), (3, (ExitReason::Exited, Some(3)))] {
        let fake = Fake::new(move |request, _| match request {
            "POST /v1.41/containers/create" => Reply::Json(201, created()),
            _ if request.contains("/start") => Reply::Json(204, String::new()),
            _ if request.contains("/wait") => {
                Reply::Json(200, format!(r#"{{"StatusCode":{code}}}"#))
            }
            _ => Reply::Json(404, r#"{"message":"No such container"}"#.to_owned()),
        });
        let runtime = fake.connect().await.unwrap();
        let container = runtime.create_container(&spec()).await.unwrap();
        container.start().await.unwrap();
        let exit = container.wait().await.unwrap();
        assert_eq!((exit.reason, exit.code), end, "{code}");
        assert!(fake.seen(&format!("GET /v1.41/containers/{ID}/json")) > 0, "no inspection");
    }
}
