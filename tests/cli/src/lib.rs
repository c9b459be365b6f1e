//! The `runtime` command as a person uses it: from a shell, and in a terminal.

mod shell;
mod tty;

pub use shell::{Done, Shell, until};
pub use tty::Tty;
