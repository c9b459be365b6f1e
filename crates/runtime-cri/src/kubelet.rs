//! Whether a kubelet works with the same engine: it removes sandboxes that it did not make.

use runtime_core::{Operation, Result};

use crate::generated as cri;
use crate::sandbox::on_host;
use crate::shared::{POD_NAMESPACE, Shared};

/// The namespaces by which pods are found. A node of a cluster has pods of the first; all sandboxes of
/// an engine are not listed, because those of other scopes are none of this one's.
const NAMESPACES: [&str; 2] = ["kube-system", "default"];

/// A sentence for the user, if there is a kubelet.
pub(crate) async fn warning(shared: &Shared) -> Result<Option<String>> {
    let mut pods = 0;
    for namespace in NAMESPACES {
        let filter = cri::PodSandboxFilter {
            label_selector: [(POD_NAMESPACE.to_owned(), namespace.to_owned())].into(),
            ..Default::default()
        };
        let request = cri::ListPodSandboxRequest { filter: Some(filter) };
        pods += shared.ask(Operation::Health, request).await?.items.len();
    }
    let socket = shared.client.endpoint().socket.display().to_string();
    let runs = on_host(move || Ok(kubelet_of(&socket))).await?;
    Ok(sentence(pods, runs))
}

fn sentence(pods: usize, runs: bool) -> Option<String> {
    let why = match (pods, runs) {
        (0, false) => return None,
        (0, true) => "it runs on this host".to_owned(),
        (pods, _) => format!("{pods} of the sandboxes are pods"),
    };
    Some(format!(
        "A kubelet works with this engine ({why}), and removes containers that it did not make: \
         use an engine of your own, or the Kubernetes backend."
    ))
}

/// Whether a process of this name has the engine's socket in its arguments.
fn kubelet_of(socket: &str) -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.into_iter().any(|process| {
        let path = process.path();
        std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim_end() == "kubelet")
            && std::fs::read(path.join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(socket))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_or_a_process_are_a_kubelet() {
        for (pods, runs, why) in [
            (0, false, None),
            (0, true, Some("(it runs on this host)")),
            (2, false, Some("(2 of the sandboxes are pods)")),
            (2, true, Some("(2 of the sandboxes are pods)")),
        ] {
            let sentence = sentence(pods, runs);
            assert_eq!(sentence.is_some(), why.is_some(), "{sentence:?}");
            assert!(sentence.unwrap_or_default().contains(why.unwrap_or_default()));
        }
    }
}
