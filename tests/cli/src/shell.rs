//! The command in a shell: arguments and pipes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cargo_metadata::Message;

use crate::Engine;

/// Option of `env` that restores the default handling of signals.
pub(crate) const DEFAULT_SIGNALS: &str = "--default-signal=HUP,INT,QUIT,TERM,USR1,USR2";

/// Returns the command, built once.
pub(crate) fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        // With the features of the whole workspace, like the tests themselves: for the package
        // alone, dependencies with other features would be rebuilt.
        let mut build = Command::new(cargo);
        // Build scripts of dependencies read such variables of the test process (ring's does),
        // which would rebuild all dependent packages.
        for (name, _) in std::env::vars_os() {
            let is_of_package = name.to_str().is_some_and(|name| {
                name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
            });
            if is_of_package {
                build.env_remove(name);
            }
        }
        let mut build = build
            .args(["build", "--quiet", "--locked", "--workspace", "--all-features"])
            .args(["--bin", "runtime"])
            .arg("--message-format=json-render-diagnostics")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("cargo starts");
        let output = build.stdout.take().expect("stdout is piped");
        let built = Message::parse_stream(std::io::BufReader::new(output))
            .filter_map(|message| match message.expect("cargo's messages can be read") {
                Message::CompilerArtifact(made) if made.target.is_bin() => made.executable,
                _ => None,
            })
            .last();
        assert!(build.wait().expect("cargo ends").success(), "the command does not build");
        built.expect("there is a command").into()
    })
}

/// Result of a command.
#[derive(Debug)]
pub struct Done {
    /// The exit code; `None` if a signal killed the command.
    pub code: Option<i32>,
    /// The stdout.
    pub stdout: String,
    /// The stderr.
    pub stderr: String,
}

impl Done {
    /// Returns the stdout of a successful command.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }
}

/// An engine with a scope of its own, which is cleaned up on drop.
#[derive(Debug)]
pub struct Shell<'a> {
    /// The engine.
    pub engine: &'a Engine,
    scope: String,
    /// An image with a shell.
    pub image: String,
}

impl<'a> Shell<'a> {
    /// Creates a scope on this engine.
    #[must_use]
    pub fn new(engine: &'a Engine) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let scope = format!("cli-{}-{number}", std::process::id());
        Self { engine, scope, image: engine.image.clone() }
    }

    /// Returns the command with these arguments.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        // Signals that the test process ignores would be inherited.
        let mut command = Command::new("env");
        command.arg(DEFAULT_SIGNALS).arg(binary()).args(arguments);
        for (name, value) in self.variables() {
            command.env(name, value);
        }
        command
    }

    /// Returns the variables of the command.
    #[must_use]
    pub fn variables(&self) -> [(&'static str, String); 5] {
        let directory = self.engine.directory().to_string_lossy().into_owned();
        [
            ("RUNTIME_BACKEND", self.engine.url.clone()),
            ("RUNTIME_SCOPE", self.scope.clone()),
            ("RUNTIME_CONFIG", self.engine.config().to_string_lossy().into_owned()),
            ("XDG_CONFIG_HOME", directory.clone()),
            ("DOCKER_CONFIG", directory),
        ]
    }

    /// Returns the path of the command.
    #[must_use]
    pub fn program(&self) -> &'static Path {
        binary()
    }

    /// Runs the command without stdin.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Done {
        self.run_with(arguments, b"")
    }

    /// Runs the command with this stdin.
    #[must_use]
    pub fn run_with(&self, arguments: &[&str], input: &[u8]) -> Done {
        let mut child = self.start(arguments);
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            // The command may exit without reading everything.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().expect("the command ends");
        writer.join().expect("the writer ends");
        Done {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts the command with pipes.
    #[must_use]
    pub fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts")
    }

    /// Starts an idle container with this name.
    #[track_caller]
    pub fn idle(&self, name: &str) {
        let script = "trap 'exit 0' TERM; while :; do sleep 0.05; done";
        let _ = self.run(&["run", "-d", "--name", name, &self.image, "sh", "-c", script]).ok();
    }

    /// Returns the names of all containers.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let names = self.run(&["ps", "-a", "--format", "{{.Name}}"]).ok();
        names.lines().map(str::to_owned).collect()
    }
}

impl Drop for Shell<'_> {
    fn drop(&mut self) {
        let done = self.run(&["reap", "-f"]);
        if done.code != Some(0) && !std::thread::panicking() {
            panic!("failed to remove the test's containers: {done:?}");
        }
    }
}

/// Polls until a condition holds.
#[track_caller]
pub fn until(what: &str, mut ask: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !ask() {
        assert!(Instant::now() < end, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
