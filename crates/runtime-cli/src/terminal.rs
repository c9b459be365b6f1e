//! The terminal of this process. It is restored however the command ends.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};

use runtime_core::TerminalSize;
use rustix::termios::{self, OptionalActions, Termios};

/// Terminal settings before raw mode.
static SAVED_SETTINGS: Mutex<Option<Termios>> = Mutex::new(None);

/// Raw mode of the terminal, restored on drop.
#[derive(Debug)]
pub(crate) struct Raw(());

impl Raw {
    /// Puts the terminal on stdin into raw mode.
    pub(crate) fn enter() -> io::Result<Self> {
        let stdin = rustix::stdio::stdin();
        let before = termios::tcgetattr(stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        *lock() = Some(before);
        restore_on_panic();
        termios::tcsetattr(stdin, OptionalActions::Now, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the terminal if it is raw.
pub(crate) fn restore() {
    if let Some(before) = lock().take() {
        // The terminal may be gone.
        let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &before);
    }
}

/// Returns true in raw mode.
pub(crate) fn is_raw() -> bool {
    lock().is_some()
}

/// Restores the terminal before a panic message, whose lines would be misaligned in raw mode.
fn restore_on_panic() {
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
    SAVED_SETTINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns true if stdin is a terminal.
pub(crate) fn on_stdin() -> bool {
    io::stdin().is_terminal()
}

/// Returns true if stdout is a terminal.
pub(crate) fn on_stdout() -> bool {
    io::stdout().is_terminal()
}

/// Returns the size of the terminal on stdout or stdin.
pub(crate) fn size() -> Option<TerminalSize> {
    let size = termios::tcgetwinsize(rustix::stdio::stdout())
        .or_else(|_| termios::tcgetwinsize(rustix::stdio::stdin()))
        .ok()?;
    (size.ws_row > 0 && size.ws_col > 0)
        .then_some(TerminalSize { rows: size.ws_row, columns: size.ws_col })
}
