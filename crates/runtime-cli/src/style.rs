//! Messages on stderr.

use std::io::{IsTerminal, Write};

use crate::terminal;

/// Prints an error with its causes.
pub(crate) fn print_error(error: &anyhow::Error) {
    if error.to_string().is_empty() {
        return;
    }
    let mut text = String::new();
    let mut text_so_far = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        // Causes that the text contains already are skipped.
        if !text_so_far.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
        text_so_far = cause;
    }
    line(&paint("runtime:", "1;31"), text);
}

/// Prints a note.
pub(crate) fn note(text: impl std::fmt::Display) {
    line(&paint("runtime:", "1;34"), text);
}

/// Prints a warning.
pub(crate) fn warn(text: impl std::fmt::Display) {
    line(&paint("runtime: warning:", "1;33"), text);
}

/// Prints a line. A raw terminal needs a carriage return.
fn line(label: &str, text: impl std::fmt::Display) {
    let end = if terminal::is_raw() { "\r\n" } else { "\n" };
    // A failed write to stderr cannot be reported.
    let _ = write!(std::io::stderr(), "{label} {text}{end}");
}

/// Colours a word on stderr.
fn paint(text: &str, code: &str) -> String {
    if std::io::stderr().is_terminal() && colours() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// Makes column names bold on a terminal.
pub(crate) fn head(text: &str) -> String {
    if std::io::stdout().is_terminal() && colours() {
        format!("\x1b[1m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// Returns the width of a line in columns, without the colour codes of this module.
pub(crate) fn width(line: &str) -> usize {
    let mut coloured = false;
    let shown = line.chars().filter(|&c| {
        let of_colour = coloured || c == '\x1b';
        coloured = of_colour && c != 'm';
        !of_colour
    });
    shown.count()
}

/// Returns true if colours are enabled, following <https://no-color.org>.
fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
