//! State of a connection between calls.

pub(crate) mod backend;
pub(crate) mod failure_policy;
pub(crate) mod nodes;
pub(crate) mod observe;
pub(crate) mod pods;
pub(crate) mod samples;

pub(crate) use self::backend::KubernetesBackend;
