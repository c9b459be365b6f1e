//! The `runtime` command as a person uses it: from a shell, and in a terminal.

mod engine;
mod runner;
mod shell;
mod tty;

pub use engine::Engine;
pub use runner::{Case, run};
pub use shell::{Done, Shell, until};
pub use tty::Tty;
