//! The command from a shell: arguments and pipes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cargo_metadata::Message;

use crate::Engine;

/// Tells `env` which signals are not ignored.
pub(crate) const MINDED: &str = "--default-signal=HUP,INT,QUIT,TERM,USR1,USR2";

/// The command, built once.
pub(crate) fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        // With the features of the whole workspace, as the tests themselves are built: for the
        // package alone, every dependency with other features would be built once more.
        let mut build = Command::new(cargo);
        // The build of a dependency looks at such variables of whoever runs these tests (ring's does),
        // and all that depends on it would be built once more.
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
            .expect("cargo can be run");
        let output = build.stdout.take().expect("it is piped");
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

/// What came of a command.
#[derive(Debug)]
pub struct Done {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Done {
    /// What it wrote, of one that went well.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }
}

/// An engine and a scope of its own on it, which is cleaned up in the end.
#[derive(Debug)]
pub struct Shell<'a> {
    /// The engine.
    pub engine: &'a Engine,
    scope: String,
    /// The image with a shell in it.
    pub image: String,
}

impl<'a> Shell<'a> {
    /// A scope on this engine.
    #[must_use]
    pub fn new(engine: &'a Engine) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let scope = format!("cli-{}-{number}", std::process::id());
        Self { engine, scope, image: engine.image.clone() }
    }

    /// The command with these arguments.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        // Whoever runs the tests may ignore signals, and with it all that is run here.
        let mut command = Command::new("env");
        command.arg(MINDED).arg(binary()).args(arguments);
        for (name, value) in self.variables() {
            command.env(name, value);
        }
        command
    }

    /// The variables that it is run with.
    #[must_use]
    pub fn variables(&self) -> [(&'static str, String); 5] {
        let folder = self.engine.folder().to_string_lossy().into_owned();
        [
            ("RUNTIME_BACKEND", self.engine.url.clone()),
            ("RUNTIME_SCOPE", self.scope.clone()),
            ("RUNTIME_CONFIG", self.engine.config().to_string_lossy().into_owned()),
            ("XDG_CONFIG_HOME", folder.clone()),
            ("DOCKER_CONFIG", folder),
        ]
    }

    /// The command's file.
    #[must_use]
    pub fn program(&self) -> &'static Path {
        binary()
    }

    /// Runs it without input.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Done {
        self.run_with(arguments, b"")
    }

    /// Runs it with this input.
    #[must_use]
    pub fn run_with(&self, arguments: &[&str], input: &[u8]) -> Done {
        let mut child = self.start(arguments);
        let mut stdin = child.stdin.take().expect("it is piped");
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            // It need not read all of it.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().expect("it ends");
        writer.join().expect("the writer ends");
        Done {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts it with pipes.
    #[must_use]
    pub fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command can be run")
    }

    /// A container that runs and does nothing, by this name.
    #[track_caller]
    pub fn idle(&self, name: &str) {
        let script = "trap 'exit 0' TERM; while :; do sleep 0.05; done";
        let _ = self.run(&["run", "-d", "--name", name, &self.image, "sh", "-c", script]).ok();
    }

    /// The names of what is there, in whatever state.
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
            panic!("what the test made is still there: {done:?}");
        }
    }
}

/// Asks again and again until it is so.
#[track_caller]
pub fn until(what: &str, mut ask: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !ask() {
        assert!(Instant::now() < end, "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}
