//! The `runtime` command in shells and terminals.

mod engine;
mod runner;
mod shell;
mod tty;

pub use engine::Engine;
pub use runner::{Case, run};
pub use shell::{Done, Shell, until};
pub use tty::Tty;
