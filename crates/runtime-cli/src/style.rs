//! What goes to people.

use std::io::{IsTerminal, Write};

use crate::terminal;

/// Prints an error and what caused it.
pub(crate) fn print_error(error: &anyhow::Error) {
    if error.to_string().is_empty() {
        return;
    }
    let mut text = String::new();
    let mut said = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        // What an error says of its source is not said twice.
        if !said.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
        said = cause;
    }
    line(&paint("runtime:", "1;31"), text);
}

/// Says something beside the output.
pub(crate) fn note(text: impl std::fmt::Display) {
    line(&paint("runtime:", "1;34"), text);
}

/// Warns of something that does not end the command.
pub(crate) fn warn(text: impl std::fmt::Display) {
    line(&paint("runtime: warning:", "1;33"), text);
}

/// A line of its own, also on a terminal that ends none by itself.
fn line(label: &str, text: impl std::fmt::Display) {
    let end = if terminal::is_raw() { "\r\n" } else { "\n" };
    // There is nobody to tell that it cannot be told.
    let _ = write!(std::io::stderr(), "{label} {text}{end}");
}

/// Colours a word for standard error.
fn paint(text: &str, code: &str) -> String {
    if std::io::stderr().is_terminal() && colours() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// Makes the head of a table bold on a terminal.
pub(crate) fn head(text: &str) -> String {
    if std::io::stdout().is_terminal() && colours() {
        format!("\x1b[1m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// How many columns a line takes, whose colours are those of this file.
pub(crate) fn width(line: &str) -> usize {
    let mut coloured = false;
    let shown = line.chars().filter(|&c| {
        let of_colour = coloured || c == '\x1b';
        coloured = of_colour && c != 'm';
        !of_colour
    });
    shown.count()
}

/// As <https://no-color.org> asks.
fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
