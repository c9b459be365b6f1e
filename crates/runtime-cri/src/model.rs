//! Conversions between the types of `runtime-core` and those of the CRI, and file formats. No I/O.

pub(crate) mod annotations;
pub(crate) mod capabilities;
pub(crate) mod container;
pub(crate) mod image;
pub(crate) mod info;
pub(crate) mod log_directory;
pub(crate) mod log_format;
pub(crate) mod spec;
