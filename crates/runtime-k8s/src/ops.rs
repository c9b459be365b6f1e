//! The operations, one file for each.

pub(crate) mod attach;
pub(crate) mod copy;
pub(crate) mod create;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod health;
pub(crate) mod info;
pub(crate) mod kill;
pub(crate) mod list;
pub(crate) mod logs;
#[cfg(feature = "cri")]
pub(crate) mod node_engine;
pub(crate) mod pull;
pub(crate) mod reap;
pub(crate) mod remove;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod stop;
pub(crate) mod wait;
