//! Sessions in containers: not there yet.

use runtime_core::{AttachOptions, Capability, ExecOptions, Operation, Result, Session};

use crate::container::CriContainer;

/// See [`Container::exec`](runtime_core::Container::exec).
pub(crate) fn exec(container: &CriContainer, _options: ExecOptions) -> Result<Session> {
    Err(container.lacks(Capability::Exec, Operation::Exec))
}

/// See [`Container::attach`](runtime_core::Container::attach).
pub(crate) fn attach(container: &CriContainer, _options: AttachOptions) -> Result<Session> {
    Err(container.lacks(Capability::Attach, Operation::Attach))
}
