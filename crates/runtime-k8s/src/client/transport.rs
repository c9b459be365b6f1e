//! The connections to the API server.

pub(crate) mod coalesce;
pub(crate) mod connections;
pub(crate) mod dial;
pub(crate) mod http2;
pub(crate) mod liveness;
pub(crate) mod pool;
