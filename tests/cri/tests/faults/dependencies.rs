//! A dependent of this backend does not depend on other backends.

use super::support::Outcome;

#[test]
fn no_kube_and_no_bollard() -> Outcome {
    // Nor on a compiler of protocol files, nor on TLS, which a Unix socket does not use.
    let foreign = ["kube", "k8s-openapi", "bollard", "prost-build", "protox", "rustls", "axum"];
    test_support::brings_along("runtime-cri", "tonic", &foreign)
}
