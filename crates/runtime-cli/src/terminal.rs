//! This command's own terminal. It is given back as it was, however the command ends.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};

use runtime_core::TerminalSize;
use rustix::termios::{self, OptionalActions, Termios};

/// How the terminal was.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// A terminal that gives every key as it is pressed. It is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Raw(());

impl Raw {
    /// Makes the terminal on standard input raw.
    pub(crate) fn enter() -> io::Result<Self> {
        let stdin = rustix::stdio::stdin();
        let before = termios::tcgetattr(stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        *lock() = Some(before);
        give_back_on_panic();
        termios::tcsetattr(stdin, OptionalActions::Now, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back, if it was taken.
pub(crate) fn restore() {
    if let Some(before) = lock().take() {
        // Its other end may be gone.
        let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &before);
    }
}

/// Whether it is raw now.
pub(crate) fn is_raw() -> bool {
    lock().is_some()
}

/// Before the panic's own words, which would run down the screen like stairs.
fn give_back_on_panic() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            hook(info);
        }));
    });
}

fn lock() -> std::sync::MutexGuard<'static, Option<Termios>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether standard input is a terminal.
pub(crate) fn on_stdin() -> bool {
    io::stdin().is_terminal()
}

/// Whether standard output is a terminal.
pub(crate) fn on_stdout() -> bool {
    io::stdout().is_terminal()
}

/// The size of the terminal that is shown on, or was typed on.
pub(crate) fn size() -> Option<TerminalSize> {
    let size = termios::tcgetwinsize(rustix::stdio::stdout())
        .or_else(|_| termios::tcgetwinsize(rustix::stdio::stdin()))
        .ok()?;
    (size.ws_row > 0 && size.ws_col > 0)
        .then_some(TerminalSize { rows: size.ws_row, columns: size.ws_col })
}
