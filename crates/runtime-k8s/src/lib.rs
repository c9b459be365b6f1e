//! Kubernetes behind the `runtime-core` interface.
