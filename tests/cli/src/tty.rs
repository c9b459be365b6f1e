//! The command in a terminal.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::Shell;
use crate::shell::DEFAULT_SIGNALS;

/// Timeout of events that should be immediate.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A terminal that runs the command, or a shell that runs the command.
pub struct Tty {
    /// The master side; `None` when it is closed.
    window: Option<Arc<File>>,
    reader: Option<JoinHandle<()>>,
    screen: Arc<Screen>,
    /// Length of the output that was checked.
    checked: usize,
    child: Child,
}

#[derive(Default)]
struct Screen {
    bytes: Mutex<(Vec<u8>, bool)>,
    more: Condvar,
    closed: AtomicBool,
}

impl Screen {
    /// Reads the output until the terminal or the window is gone.
    fn watch(&self, window: &File) {
        let mut buffer = [0; 4096];
        let pause = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        while !self.closed.load(Ordering::Relaxed) {
            let mut fds = [PollFd::new(window, PollFlags::IN)];
            if poll(&mut fds, Some(&pause)).unwrap_or(0) == 0 {
                continue;
            }
            let mut window = window;
            let length = window.read(&mut buffer).unwrap_or(0);
            let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
            bytes.0.extend_from_slice(&buffer[..length]);
            bytes.1 |= length == 0;
            self.more.notify_all();
            if length == 0 {
                return;
            }
        }
    }
}

impl Tty {
    /// Runs the command in a terminal of this size.
    #[must_use]
    pub fn run(shell: &Shell<'_>, rows: u16, columns: u16, arguments: &[&str]) -> Self {
        let program = shell.program().to_string_lossy().into_owned();
        let words = [&[program.as_str()], arguments].concat();
        Self::start(shell, rows, columns, &words)
    }

    /// Runs a script of the local shell, with the command as `$RUNTIME`.
    #[must_use]
    pub fn script(shell: &Shell<'_>, rows: u16, columns: u16, script: &str) -> Self {
        Self::start(shell, rows, columns, &["sh", "-c", script])
    }

    fn start(shell: &Shell<'_>, rows: u16, columns: u16, words: &[&str]) -> Self {
        let window = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC);
        let window = File::from(window.expect("a terminal"));
        grantpt(&window).expect("the terminal is granted");
        unlockpt(&window).expect("the terminal is unlocked");
        tcsetwinsize(&window, size(rows, columns)).expect("the size is set");
        let path = ptsname(&window, Vec::new()).expect("the terminal has a name").into_bytes();
        let terminal = || {
            let mut options = OpenOptions::new();
            let no_control = i32::try_from(OFlags::NOCTTY.bits()).expect("a small flag");
            options.read(true).write(true).custom_flags(no_control);
            Stdio::from(options.open(OsString::from_vec(path.clone())).expect("the other side"))
        };
        // Makes the terminal the controlling terminal of the command, and executes the command.
        let child = Command::new("setsid")
            .args(["--ctty", "env", DEFAULT_SIGNALS])
            .args(words)
            .envs(shell.variables())
            .env("RUNTIME", shell.program())
            .env("TERM", "xterm")
            .stdin(terminal())
            .stdout(terminal())
            .stderr(terminal())
            .spawn()
            .expect("the command starts");
        let (window, screen) = (Arc::new(window), Arc::new(Screen::default()));
        let (watched, shown) = (window.clone(), screen.clone());
        let reader = std::thread::spawn(move || shown.watch(&watched));
        Self { window: Some(window), reader: Some(reader), screen, checked: 0, child }
    }

    /// Sends keys.
    pub fn press(&self, keys: &str) {
        let mut window = self.window();
        window.write_all(keys.as_bytes()).expect("the keys are written");
    }

    fn window(&self) -> &File {
        self.window.as_ref().expect("the window is open")
    }

    /// Waits for a text after the last one; returns the output up to its end.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        let end = Instant::now() + TIMEOUT;
        let mut bytes = self.screen.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let new = &bytes.0[self.checked..];
            if let Some(at) = new.windows(text.len()).position(|part| part == text.as_bytes()) {
                let shown = String::from_utf8_lossy(&new[..at + text.len()]).into_owned();
                self.checked += at + text.len();
                return shown;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !bytes.1 && !left.is_zero(),
                "{text:?} was not shown, but {:?}",
                String::from_utf8_lossy(new)
            );
            bytes = self
                .screen
                .more
                .wait_timeout(bytes, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Resizes the terminal.
    pub fn resize(&self, rows: u16, columns: u16) {
        tcsetwinsize(self.window(), size(rows, columns)).expect("the size is set");
    }

    /// Closes the window.
    pub fn close(&mut self) {
        self.screen.closed.store(true, Ordering::Relaxed);
        self.window = None;
        if let Some(reader) = self.reader.take() {
            // The reader has the terminal open as well.
            reader.join().expect("the reader ends");
        }
    }

    /// Waits for the exit; returns the exit code, or 128 plus the number of the signal.
    #[track_caller]
    pub fn end(&mut self) -> i32 {
        let end = Instant::now() + TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child is waited for") {
                return status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            }
            assert!(Instant::now() < end, "the command does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.close();
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
