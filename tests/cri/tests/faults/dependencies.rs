//! Who depends on this backend depends on no other.

use super::support::Outcome;

#[test]
fn no_kube_and_no_bollard() -> Outcome {
    // Nor what takes a compiler of protocol files, or TLS that a Unix socket has no use for.
    let foreign = ["kube", "k8s-openapi", "bollard", "prost-build", "protox", "rustls", "axum"];
    test_support::brings_along("runtime-cri", "tonic", &foreign)
}
