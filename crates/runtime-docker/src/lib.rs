//! Docker Engine and Podman behind the `runtime-core` interface.
