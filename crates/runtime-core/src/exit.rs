//! Exits and signals.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Reason for the end of a container. The list is closed; an engine's own text is in
/// [`Exit::message`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ExitReason {
    /// The main process ended by itself.
    Exited,
    /// A signal ended the main process, and neither the memory limit nor a stop through this
    /// library was the cause.
    ///
    /// Engines report such an end only as exit code 128 + signal. A process that returns such a
    /// code itself, as shells do for their children, is therefore reported the same way.
    Signaled,
    /// A memory limit ended the container: its own limit, or one of a parent control group. This
    /// reason is never inferred from exit code 137.
    ///
    /// It requires a report of the engine or of the kernel. Engines can miss an OOM kill, as
    /// containerd does on cgroup v1, but the kernel log names the control group of every killed
    /// process. The kernel log is read for a container with a limit that ended by SIGKILL, if the
    /// engine is Docker, containerd or CRI-O on a Unix socket of this host, and if this process may
    /// read the log (`CAP_SYSLOG`, or `kernel.dmesg_restrict` is off). The log has a limited size,
    /// and contains at most ten kills per five seconds. Without a report the reason is `Signaled`.
    ///
    /// The OOM-killed process need not be the main process, and need not be the cause of the main
    /// process's end: an engine reports OOM for a container that was killed after any of its
    /// processes had been OOM-killed, and the kernel log is read the same way.
    OutOfMemory,
    /// A [`stop`](crate::Container::stop) through this library ended the container, gracefully or
    /// not.
    StoppedByUs,
    /// The engine ended the container because its deadline had passed.
    DeadlineExceeded,
    /// The cluster ended the container to make room, or because a resource of the node ran short.
    Evicted,
    /// The node that ran the container is gone, together with the exit.
    NodeLost,
    /// The container never ran because its image could not be pulled.
    ImagePullFailed,
    /// The container never ran because its process could not be started: command not found, not
    /// executable, or a missing mount or device.
    StartFailed,
    /// The container was removed before its exit was observed.
    Removed,
    /// The engine cannot determine how the container ended.
    Unknown,
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exited => "exited",
            Self::Signaled => "killed by a signal",
            Self::OutOfMemory => "out of memory",
            Self::StoppedByUs => "stopped",
            Self::DeadlineExceeded => "deadline exceeded",
            Self::Evicted => "evicted",
            Self::NodeLost => "node lost",
            Self::ImagePullFailed => "image pull failed",
            Self::StartFailed => "start failed",
            Self::Removed => "removed",
            Self::Unknown => "unknown",
        })
    }
}

/// The end of a container. A container has one exit, and every waiter gets the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Exit {
    /// Exit code of the main process. `None` if no process ended or if its code is unknown; the
    /// code of a vanished container is never 0.
    pub code: Option<i32>,
    /// Reason for the end.
    pub reason: ExitReason,
    /// The signal that ended the main process, if any.
    pub signal: Option<Signal>,
    /// End time, by the engine's clock.
    pub ended_at: Option<SystemTime>,
    /// The engine's message about the end.
    pub message: Option<String>,
}

impl Exit {
    /// Creates an exit without a code.
    #[must_use]
    pub const fn new(reason: ExitReason) -> Self {
        Self { code: None, reason, signal: None, ended_at: None, message: None }
    }

    /// Creates an exit from the code that the engine reports: [`ExitReason::Signaled`] with its
    /// signal for 129 to 192, [`ExitReason::Exited`] otherwise. A backend with more information
    /// (out of memory, stopped by us) sets the reason afterwards.
    #[must_use]
    pub fn from_code(code: i32) -> Self {
        let signal = u8::try_from(code - 128).ok().and_then(|number| Signal::new(number).ok());
        let reason = if signal.is_some() { ExitReason::Signaled } else { ExitReason::Exited };
        Self { code: Some(code), reason, signal, ended_at: None, message: None }
    }

    /// Sets the reason.
    #[must_use]
    pub const fn with_reason(mut self, reason: ExitReason) -> Self {
        self.reason = reason;
        self
    }

    /// Sets the end time.
    #[must_use]
    pub const fn with_ended_at(mut self, ended_at: Option<SystemTime>) -> Self {
        self.ended_at = ended_at;
        self
    }

    /// Sets the engine's message. An empty message is stored as `None`.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into()).filter(|message| !message.is_empty());
        self
    }

    /// Returns `true` if the main process ended with code 0. An exit without a code is never a
    /// success.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reason)?;
        if let Some(signal) = self.signal {
            write!(f, " ({signal})")?;
        }
        if let Some(code) = self.code {
            write!(f, " with code {code}")?;
        }
        if let Some(message) = &self.message {
            write!(f, ": {message}")?;
        }
        Ok(())
    }
}

/// A Linux signal, 1 to 64.
///
/// A signal is parsed from a number or a name, with or without `SIG`, in any case: `15`, `TERM`,
/// `sigterm`. Names of real-time signals are `RTMIN`, `RTMIN+N`, `RTMAX-N` and `RTMAX`, with
/// `RTMIN` = 34 and `RTMAX` = 64, as in Docker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Signal(u8);

/// Signal names and numbers of Linux on x86 and ARM, from `signal(7)`.
const SIGNAL_NAMES: &[(&str, u8)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// Alternative names of the same signals.
const SIGNAL_ALIASES: &[(&str, u8)] = &[("IOT", 6), ("CLD", 17), ("POLL", 29), ("UNUSED", 31)];

/// First real-time signal available to programs. The C library reserves 32 and 33.
const RTMIN: u8 = 34;
const RTMAX: u8 = 64;

/// Parses the name of a real-time signal: `RTMIN`, `RTMIN+N`, `RTMAX` or `RTMAX-N`.
fn parse_real_time(name: &str) -> Option<u8> {
    let (base, offset) = name.split_at_checked(5)?;
    let offset_after = |sign: char| -> Option<u8> {
        if offset.is_empty() {
            return Some(0);
        }
        let digits = offset.strip_prefix(sign)?;
        digits.chars().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let number = match base {
        "RTMIN" => RTMIN.checked_add(offset_after('+')?)?,
        "RTMAX" => RTMAX.checked_sub(offset_after('-')?)?,
        _ => return None,
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

impl Signal {
    /// Hang-up.
    pub const HUP: Self = Self(1);
    /// Interrupt, as Ctrl-C sends it.
    pub const INT: Self = Self(2);
    /// Quit.
    pub const QUIT: Self = Self(3);
    /// Kill: cannot be caught.
    pub const KILL: Self = Self(9);
    /// First user-defined signal.
    pub const USR1: Self = Self(10);
    /// Second user-defined signal.
    pub const USR2: Self = Self(12);
    /// Terminate: the signal of a stop, unless the image or the spec sets another.
    pub const TERM: Self = Self(15);

    /// Creates a signal from its number.
    ///
    /// # Errors
    /// `InvalidArgument` naming the field `signal` if the number is not 1 to 64.
    pub fn new(number: u8) -> Result<Self> {
        if (1..=64).contains(&number) {
            Ok(Self(number))
        } else {
            Err(Error::invalid("signal", format!("{number} is not 1 to 64")))
        }
    }

    /// Returns the number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Returns the name without `SIG`, or `None` for the signals from 32 on.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        SIGNAL_NAMES.iter().find(|(_, number)| *number == self.0).map(|(name, _)| *name)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "SIG{name}"),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for Signal {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Ok(number) = text.parse::<u8>() {
            return Self::new(number);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        SIGNAL_NAMES
            .iter()
            .chain(SIGNAL_ALIASES)
            .find(|(known, _)| *known == name)
            .map(|(_, number)| *number)
            .or_else(|| parse_real_time(name))
            .map(Self)
            .ok_or_else(|| Error::invalid("signal", format!("{text:?} is not a signal")))
    }
}

impl TryFrom<u8> for Signal {
    type Error = Error;

    fn try_from(number: u8) -> Result<Self> {
        Self::new(number)
    }
}

impl From<Signal> for u8 {
    fn from(signal: Signal) -> Self {
        signal.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_code_sets_reason_and_signal() {
        for (code, reason, signal) in [
            (0, ExitReason::Exited, None),
            (1, ExitReason::Exited, None),
            (128, ExitReason::Exited, None),
            (137, ExitReason::Signaled, Some(Signal::KILL)),
            (143, ExitReason::Signaled, Some(Signal::TERM)),
            (193, ExitReason::Exited, None),
            (255, ExitReason::Exited, None),
            (-1, ExitReason::Exited, None),
        ] {
            let exit = Exit::from_code(code);
            assert_eq!((exit.reason, exit.signal, exit.code), (reason, signal, Some(code)));
        }
    }

    #[test]
    fn exit_without_code_is_not_success() {
        assert!(Exit::from_code(0).success());
        assert!(!Exit::new(ExitReason::Removed).success());
        assert!(!Exit::new(ExitReason::Exited).success());
    }

    #[test]
    fn signal_parses_from_name_and_number() {
        for text in ["15", "TERM", "term", "SIGTERM", "sigterm"] {
            assert_eq!(text.parse::<Signal>().unwrap(), Signal::TERM);
        }
        for (text, number) in [
            ("SIGRTMIN", 34),
            ("RTMIN+3", 37),
            ("sigrtmin+3", 37),
            ("SIGRTMIN+30", 64),
            ("SIGRTMAX", 64),
            ("SIGRTMAX-14", 50),
            ("rtmax-30", 34),
            ("SIGCLD", 17),
            ("IOT", 6),
            ("POLL", 29),
        ] {
            assert_eq!(text.parse::<Signal>().unwrap().number(), number, "{text}");
        }
        for text in [
            "",
            "0",
            "65",
            "-1",
            "SIG",
            "TERMINATE",
            "300",
            "RTMIN-1",
            "RTMIN+31",
            "RTMAX+1",
            "RTMAX-31",
            "RTMIN+",
            "RTMIN++3",
            "RTMIN+-3",
            "RTMIN3",
            "RT",
            "RTMI\u{e4}",
        ] {
            assert_eq!(text.parse::<Signal>().unwrap_err().field(), Some("signal"));
        }
        assert_eq!(Signal::new(40).unwrap().to_string(), "40");
        assert_eq!(Signal::KILL.to_string(), "SIGKILL");
    }
}
