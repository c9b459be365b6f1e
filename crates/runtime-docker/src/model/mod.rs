//! Pure conversions between the engine's API and the types of `runtime-core`.

pub(crate) mod capabilities;
pub(crate) mod demux;
pub(crate) mod engine;
pub(crate) mod events;
pub(crate) mod frames;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod labels;
pub(crate) mod progress;
pub(crate) mod spec;
pub(crate) mod stats;
pub(crate) mod time;
