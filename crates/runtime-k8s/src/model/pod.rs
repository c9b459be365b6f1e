//! The life of the container of a pod, as the pod shows it.

pub(crate) mod budget;
pub(crate) mod gate;
pub(crate) mod lifecycle;
pub(crate) mod observed;
