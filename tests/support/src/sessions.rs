//! Sessions that are cut, by the death of the engine or of another part that they go through.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use runtime_conformance::{BoxError, EngineControl};
use runtime_core::{
    AttachOptions, ByteStream, Bytes, Container, ErrorKind, ExecOptions, Interactive, Result,
    Session, SessionControl, SessionInput, SessionMode, TerminalSize,
};
use tokio::time::{Instant, sleep, timeout};

use crate::{Connection, Outcome, PATIENCE};

/// The main process of the container: it gives back what it reads, and lives on when its input has
/// ended. It has to be made [`Interactive::Stdin`].
const SCRIPT: &str = "cat; exec sleep 3600";

/// How long a session may take to know that it was cut: an attach waits for the end of the main
/// process first, which may come with that of the session.
const LIMIT: Duration = Duration::from_secs(30);

/// How many sessions have output that nobody ever reads. They are more than the connections for other
/// calls that an engine's end takes with it, which have a task each as well.
const UNREAD: usize = 16;

/// Sessions are lost with what they go through, whether it is still away when they notice or has come
/// back. What they were in lives on.
///
/// # Errors
/// Those of the calls that must succeed.
///
/// # Panics
/// When something of that is not so.
pub async fn sessions_die_with(
    control: &dyn EngineControl,
    connection: &impl Connection,
) -> Outcome {
    let spec = connection.script(SCRIPT).interactive(Interactive::Stdin);
    for away in [true, false] {
        let container = connection.start(&spec).await?;
        let sessions = CutSessions::open(&*container).await?;
        control.kill().await?;
        if away {
            sessions.are_lost().await.are_freed().await;
            control.start().await?;
        } else {
            control.start().await?;
            drop(sessions.are_lost().await);
        }
        exec_works(&*container).await?;
    }
    Ok(())
}

/// Sessions of every kind that are open while the engine, or what leads to it, goes away.
struct CutSessions {
    /// How many tasks there were before.
    tasks: usize,
    sessions: Vec<(&'static str, Session)>,
    /// Those that have no room for more output. One is read at last.
    unread: Vec<Session>,
}

impl CutSessions {
    /// Opens them in a container that runs [`SCRIPT`], and waits until each has begun.
    async fn open(container: &dyn Container) -> std::result::Result<Self, BoxError> {
        // What a first session leaves open is not to be counted.
        exec_works(container).await?;
        let tasks = tasks();
        let mut unread = Vec::new();
        for _ in 0..=UNREAD {
            unread.push(container.exec(ExecOptions::new(["yes"])).await?);
        }
        let stdin = SessionMode::Stdin;
        let terminal = SessionMode::Terminal(TerminalSize { rows: 24, columns: 80 });
        let ticks = "while :; do echo tick; sleep 0.01; done";
        let cat = || ExecOptions::new(["cat"]);
        let mut sessions = vec![
            ("output", container.exec(ExecOptions::new(["sh", "-c", ticks])).await?),
            ("quiet", container.exec(ExecOptions::new(["sleep", "3600"])).await?),
            ("input", container.exec(cat().mode(stdin)).await?),
            ("terminal", container.exec(cat().mode(terminal)).await?),
            ("attach", container.attach(AttachOptions::default().mode(stdin)).await?),
        ];
        for (name, session) in &mut sessions {
            if let Some(stdin) = &mut session.stdin {
                stdin.write(Bytes::from_static(b"tick\n")).await?;
            }
            if *name != "quiet" {
                begins(name, &mut session.stdout).await?;
            }
        }
        Ok(Self { tasks, sessions, unread })
    }

    /// Asserts that each is lost, in all of its parts and within a limit. Gives those that nobody has
    /// read.
    async fn are_lost(self) -> Unread {
        let Self { tasks, sessions, mut unread } = self;
        let read_late = unread.split_off(UNREAD).into_iter().map(|session| ("late", session));
        join_all(sessions.into_iter().chain(read_late).map(async |(name, session)| {
            timeout(LIMIT, is_lost(name, session))
                .await
                .unwrap_or_else(|_| panic!("{name}: it goes on after it was cut"));
        }))
        .await;
        Unread { tasks, sessions: unread }
    }
}

/// Sessions that were cut, with output that nobody has read.
struct Unread {
    tasks: usize,
    sessions: Vec<Session>,
}

impl Unread {
    /// Drops them while the engine is still away, and asserts that no task of any session is left.
    async fn are_freed(self) {
        let Self { tasks: before, sessions } = self;
        drop(sessions);
        let end = Instant::now() + PATIENCE;
        while tasks() >= before + UNREAD {
            assert!(Instant::now() < end, "there are {} tasks and were {before}", tasks());
            sleep(Duration::from_millis(10)).await;
        }
        println!("there are {} tasks and were {before}", tasks());
    }
}

/// Asserts that a container can be worked in.
async fn exec_works(container: &dyn Container) -> std::result::Result<(), BoxError> {
    let session = container.exec(ExecOptions::new(["sh", "-c", "echo here; exit 3"])).await?;
    let all = async { (read(session.stdout).await, session.control.wait().await) };
    let ((text, cut), exit) =
        timeout(LIMIT, all).await.map_err(|_| "a new exec does not come to its end")?;
    assert_eq!((&*text, cut, exit?.code), (&b"here\n"[..], None, 3));
    Ok(())
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// Reads until there is a line.
async fn begins(name: &str, stdout: &mut ByteStream) -> Result<()> {
    let mut text = Vec::new();
    while !text.ends_with(b"\n") {
        match timeout(LIMIT, stdout.next()).await {
            Ok(Some(bytes)) => text.extend_from_slice(&bytes?),
            end => panic!("{name}: {end:?} after {text:?}"),
        }
    }
    Ok(())
}

async fn is_lost(name: &str, session: Session) {
    let begun = Instant::now();
    let Session { stdin, stdout, stderr, control, .. } = session;
    let stderr = stderr.unwrap_or_else(|| stream::once(async { Err(lost()) }).boxed());
    let ((_, out), (_, err), ()) =
        tokio::join!(read(stdout), read(stderr), input_is_lost(name, stdin));
    assert_eq!(out, Some(ErrorKind::Lost), "{name}: how standard output has ended");
    assert_eq!(err, Some(ErrorKind::Lost), "{name}: how standard error has ended");
    // The second call gets the same answer.
    exit_is_lost(name, &*control).await;
    exit_is_lost(name, &*control).await;
    println!("{name}: lost after {:?}", begun.elapsed());
}

fn lost() -> runtime_core::Error {
    runtime_core::Error::new(ErrorKind::Lost)
}

/// What comes to the end, and the error that it ended with.
async fn read(mut stream: ByteStream) -> (Vec<u8>, Option<ErrorKind>) {
    let (mut bytes, mut cut) = (Vec::new(), None);
    while let Some(piece) = stream.next().await {
        assert_eq!(cut, None, "a stream ends with its first error");
        match piece {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(error) => cut = Some(error.kind()),
        }
    }
    (bytes, cut)
}

/// What is written just after the cut may be on its way to nowhere, but not for ever.
async fn input_is_lost(name: &str, stdin: Option<Box<dyn SessionInput>>) {
    let Some(mut stdin) = stdin else { return };
    let error = loop {
        match stdin.write(Bytes::from_static(b"more\n")).await {
            Ok(()) => sleep(Duration::from_millis(10)).await,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Lost, "{name}: {error:?}");
    let error = stdin.close().await.expect_err("no end of the input can be told");
    assert_eq!(error.kind(), ErrorKind::Lost, "{name}: {error:?}");
}

async fn exit_is_lost(name: &str, control: &dyn SessionControl) {
    let exit = control.wait().await;
    let error = exit.expect_err("a session that was cut has no exit code");
    assert_eq!(error.kind(), ErrorKind::Lost, "{name}: {error:?}");
    assert!(error.backend().is_some() && error.operation().is_some(), "{name}: {error:?}");
}
