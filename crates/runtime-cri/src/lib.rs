//! containerd and CRI-O, through the CRI, behind the `runtime-core` interface.

mod generated;
