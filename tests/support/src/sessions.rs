//! Sessions that are interrupted when the engine or another component of their connection stops.

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

/// Main process of the container: it echoes its input and keeps running after the end of the input.
/// The container has to be [`Interactive::Stdin`].
const SCRIPT: &str = "cat; exec sleep 3600";

/// Timeout for the detection of an interrupted session. An attach first waits for the exit of the
/// main process, which could end together with the session.
const DETECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Number of sessions whose output is never read. It exceeds the number of connections for other
/// calls that a stop of the engine closes, which also have a task each.
const UNREAD_SESSIONS: usize = 16;

/// Asserts that sessions are lost with the component that they go through, whether or not it has
/// restarted when they detect it, and that their containers keep running.
///
/// # Errors
/// Errors of the calls that must succeed.
///
/// # Panics
/// If a condition does not hold.
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

/// Sessions of every kind that are open while the engine, or a component in between, stops.
struct CutSessions {
    /// Number of tasks before the sessions.
    tasks: usize,
    sessions: Vec<(&'static str, Session)>,
    /// Sessions whose buffers are full. One is read at the end.
    unread: Vec<Session>,
}

impl CutSessions {
    /// Opens the sessions in a container that runs [`SCRIPT`], and waits until each has started.
    async fn open(container: &dyn Container) -> std::result::Result<Self, BoxError> {
        // Connections that the first session leaves open are not counted.
        exec_works(container).await?;
        let tasks = tasks();
        let mut unread = Vec::new();
        for _ in 0..=UNREAD_SESSIONS {
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

    /// Asserts that each session is lost, in all of its parts and within the limit. Returns the
    /// unread sessions.
    async fn are_lost(self) -> Unread {
        let Self { tasks, sessions, mut unread } = self;
        let read_late =
            unread.split_off(UNREAD_SESSIONS).into_iter().map(|session| ("late", session));
        join_all(sessions.into_iter().chain(read_late).map(async |(name, session)| {
            timeout(DETECTION_TIMEOUT, is_lost(name, session))
                .await
                .unwrap_or_else(|_| panic!("{name}: the session continues after the interruption"));
        }))
        .await;
        Unread { tasks, sessions: unread }
    }
}

/// Interrupted sessions with unread output.
struct Unread {
    tasks: usize,
    sessions: Vec<Session>,
}

impl Unread {
    /// Drops the sessions while the engine is stopped, and asserts that no task of them is left.
    async fn are_freed(self) {
        let Self { tasks: before, sessions } = self;
        drop(sessions);
        let end = Instant::now() + PATIENCE;
        while tasks() >= before + UNREAD_SESSIONS {
            assert!(Instant::now() < end, "{} tasks, expected {before}", tasks());
            sleep(Duration::from_millis(10)).await;
        }
        println!("{} tasks, {before} before", tasks());
    }
}

/// Asserts that an exec in a container works.
async fn exec_works(container: &dyn Container) -> std::result::Result<(), BoxError> {
    let session = container.exec(ExecOptions::new(["sh", "-c", "echo here; exit 3"])).await?;
    let all = async { (read(session.stdout).await, session.control.wait().await) };
    let ((text, cut), exit) =
        timeout(DETECTION_TIMEOUT, all).await.map_err(|_| "a new exec does not complete")?;
    assert_eq!((&*text, cut, exit?.code), (&b"here\n"[..], None, 3));
    Ok(())
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// Reads until the first line is complete.
async fn begins(name: &str, stdout: &mut ByteStream) -> Result<()> {
    let mut text = Vec::new();
    while !text.ends_with(b"\n") {
        match timeout(DETECTION_TIMEOUT, stdout.next()).await {
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
    assert_eq!(out, Some(ErrorKind::Lost), "{name}: end of stdout");
    assert_eq!(err, Some(ErrorKind::Lost), "{name}: end of stderr");
    // A second call returns the same result.
    exit_is_lost(name, &*control).await;
    exit_is_lost(name, &*control).await;
    println!("{name}: lost after {:?}", begun.elapsed());
}

fn lost() -> runtime_core::Error {
    runtime_core::Error::new(ErrorKind::Lost)
}

/// Reads a stream to its end; returns its bytes and the error that ended it.
async fn read(mut stream: ByteStream) -> (Vec<u8>, Option<ErrorKind>) {
    let (mut bytes, mut cut) = (Vec::new(), None);
    while let Some(piece) = stream.next().await {
        assert_eq!(cut, None, "a stream ends after its first error");
        match piece {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(error) => cut = Some(error.kind()),
        }
    }
    (bytes, cut)
}

/// Writes right after the interruption may still succeed, for a limited time.
async fn input_is_lost(name: &str, stdin: Option<Box<dyn SessionInput>>) {
    let Some(mut stdin) = stdin else { return };
    let error = loop {
        match stdin.write(Bytes::from_static(b"more\n")).await {
            Ok(()) => sleep(Duration::from_millis(10)).await,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Lost, "{name}: {error:?}");
    let error = stdin.close().await.expect_err("the end of the input cannot be sent");
    assert_eq!(error.kind(), ErrorKind::Lost, "{name}: {error:?}");
}

async fn exit_is_lost(name: &str, control: &dyn SessionControl) {
    let exit = control.wait().await;
    let error = exit.expect_err("an interrupted session has no exit code");
    assert_eq!(error.kind(), ErrorKind::Lost, "{name}: {error:?}");
    assert!(error.backend().is_some() && error.operation().is_some(), "{name}: {error:?}");
}
