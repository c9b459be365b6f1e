//! A dependent of this backend does not depend on other backends.

use super::support::Outcome;

#[test]
fn no_kube_and_no_tonic() -> Outcome {
    let foreign = ["kube", "k8s-openapi", "tonic", "prost"];
    test_support::brings_along("runtime-docker", "bollard", &foreign)
}
