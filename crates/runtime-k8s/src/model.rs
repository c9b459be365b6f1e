//! What does not need a connection: pods, their labels, and what is read of them.

pub(crate) mod admitted;
pub(crate) mod api;
pub(crate) mod capabilities;
pub(crate) mod container;
pub(crate) mod disruption_budget;
pub(crate) mod info;
pub(crate) mod labels;
pub(crate) mod log_line;
pub(crate) mod pod;
pub(crate) mod secret;
pub(crate) mod spec;
pub(crate) mod stats;
