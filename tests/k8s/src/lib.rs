//! A cluster as a subject of the conformance suite, and a raw client for it.

mod balancer;
mod differences;
pub mod fake;
mod gates;
mod raw;
mod relay;
mod subject;
mod translator;

pub use balancer::Balancer;
pub use raw::Raw;
pub use relay::Watches;
pub use subject::{Environment, KubernetesSubject};
