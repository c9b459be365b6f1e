//! Pure functions and data: pods, their labels, and the types of the API.

pub(crate) mod admitted;
pub(crate) mod api;
pub(crate) mod capabilities;
pub(crate) mod container;
pub(crate) mod disruption_budget;
pub(crate) mod info;
pub(crate) mod labels;
pub(crate) mod log_format;
pub(crate) mod pod;
pub(crate) mod secret;
pub(crate) mod spec;
pub(crate) mod stats;
