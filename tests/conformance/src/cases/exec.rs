//! Commands in a running container.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use runtime_core::{
    ByteStream, Bytes, Container, ContainerStatus, ErrorKind, ExecOptions, Session, SessionInput,
    SessionMode, Signal, TerminalSize,
};

use crate::case::cases;
use crate::expect::{refused, refused_as};
use crate::failure::fail;
use crate::poll::{PATIENCE, until};
use crate::{Context, Failure, Outcome};

cases! { "exec":
    output [Exec];
    exit_codes [Exec];
    streams_apart [Exec];
    stdin_to_its_end [Exec, ExecStdinEof];
    stdin_of_an_output_session_is_empty [Exec];
    large_both_ways [Exec, ExecStdinEof] heavy long;
    unread_stream_does_not_block_the_other [Exec];
    unread_input_does_not_hide_the_end [Exec];
    terminal [Exec, ExecTerminal];
    terminal_size_and_resize [Exec, ExecTerminal];
    terminal_takes_every_byte [Exec, ExecTerminal];
    resize_without_terminal [Exec];
    user [Exec, ExecUser];
    env [Exec, ExecEnv];
    working_dir [Exec, ExecWorkingDir];
    with_the_tools_of_the_image [Exec];
    signal [Exec, ExecSignal];
    command_not_found [Exec];
    in_created [Exec];
    in_exited [Exec, Wait];
    out_of_memory [Exec, MemoryLimit];
    in_a_container_without_memory [Exec, MemoryLimit] exclusive;
    many_at_once [Exec];
    dropped_in_mid_session [Exec];
    dropped_session_ends_its_process [Exec, ExecSignal];
    ended_process_takes_descendants_with_it [Exec, ExecDescendants];
    cut_off_is_lost [Exec];
    wait_from_many [Exec];
}

/// Reads a stream of a session to its end.
pub(super) async fn drain(mut stream: ByteStream) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes)
}

/// Finished session: both streams as text, and the exit code.
struct Done {
    stdout: String,
    stderr: String,
    code: i32,
}

async fn finish(session: Session) -> Result<Done, Failure> {
    let Session { stdin, stdout, stderr, control, .. } = session;
    let stderr = stderr.unwrap_or_else(|| Box::pin(stream::empty()));
    let all = async { tokio::join!(drain(stdout), drain(stderr), control.wait()) };
    let Ok((stdout, stderr, exit)) = tokio::time::timeout(PATIENCE * 2, all).await else {
        fail!("the session does not end");
    };
    drop(stdin);
    Ok(Done {
        stdout: String::from_utf8_lossy(&stdout?).into_owned(),
        stderr: String::from_utf8_lossy(&stderr?).into_owned(),
        code: exit?.code,
    })
}

async fn run(container: &dyn Container, options: ExecOptions) -> Result<Done, Failure> {
    finish(container.exec(options).await?).await
}

fn sh(script: &str) -> ExecOptions {
    ExecOptions::new(["sh", "-c", script])
}

fn input(session: &mut Session) -> Result<&mut Box<dyn SessionInput>, Failure> {
    match session.stdin.as_mut() {
        Some(stdin) => Ok(stdin),
        None => fail!("the session has no standard input"),
    }
}

async fn output(t: Context) -> Outcome {
    let container = t.shared().await?;
    let done = run(&*container, ExecOptions::new(["echo", "two  words", "$HOME"])).await?;
    assert_eq!((done.stdout.as_str(), done.code), ("two  words $HOME\n", 0));
    // Output of an exec is not in the log of the container.
    assert!(!t.text(&*container).await?.contains("words"));
    Ok(())
}

async fn exit_codes(t: Context) -> Outcome {
    let container = t.shared().await?;
    for code in [0, 1, 42, 137, 255] {
        assert_eq!(run(&*container, sh(&format!("exit {code}"))).await?.code, code);
    }
    assert_eq!(run(&*container, sh("kill -9 $$")).await?.code, 137);
    Ok(())
}

async fn streams_apart(t: Context) -> Outcome {
    let container = t.shared().await?;
    let done = run(&*container, sh("echo out; echo err >&2; printf end")).await?;
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("out\nend", "err\n"));
    Ok(())
}

async fn stdin_to_its_end(t: Context) -> Outcome {
    let container = t.shared().await?;
    let options = sh("cat; echo eof >&2; exit 3").mode(SessionMode::Stdin);
    let mut session = container.exec(options).await?;
    let stdin = input(&mut session)?;
    stdin.write(Bytes::from_static(b"one\n")).await?;
    stdin.write(Bytes::from_static(b"")).await?;
    stdin.write(Bytes::from_static(b"two\n\0\xff")).await?;
    stdin.close().await?;
    stdin.close().await?;
    refused(stdin.write(Bytes::from_static(b"x")).await, ErrorKind::InvalidState)?;
    let stdout = drain(session.stdout).await?;
    assert_eq!(stdout, b"one\ntwo\n\0\xff");
    assert_eq!(session.control.wait().await?.code, 3);
    Ok(())
}

async fn stdin_of_an_output_session_is_empty(t: Context) -> Outcome {
    let container = t.shared().await?;
    let session = container.exec(sh("cat; echo eof")).await?;
    assert!(session.stdin.is_none());
    assert_eq!(finish(session).await?.stdout, "eof\n");
    Ok(())
}

/// Sends 100 MiB through a pipe, in both directions at once.
async fn large_both_ways(t: Context) -> Outcome {
    const CHUNK: usize = 1 << 20;
    const CHUNKS: usize = 100;
    let container = t.shared().await?;
    let options = ExecOptions::new(["cat"]).mode(SessionMode::Stdin);
    let session = container.exec(options).await?;
    let Session { stdin, mut stdout, control, .. } = session;
    let Some(mut stdin) = stdin else { fail!("the session has no standard input") };
    let chunk = |number: usize| Bytes::from(vec![number as u8; CHUNK]);
    let write = async {
        for number in 0..CHUNKS {
            stdin.write(chunk(number)).await?;
        }
        stdin.close().await
    };
    let read = async {
        let mut at = 0;
        while let Some(bytes) = stdout.next().await {
            for byte in bytes? {
                if byte != (at / CHUNK) as u8 {
                    fail!("byte {at} is wrong");
                }
                at += 1;
            }
        }
        Ok(at)
    };
    let (written, read) = tokio::join!(write, read);
    written?;
    assert_eq!(read?, CHUNK * CHUNKS);
    assert_eq!(control.wait().await?.code, 0);
    Ok(())
}

async fn unread_stream_does_not_block_the_other(t: Context) -> Outcome {
    let container = t.shared().await?;
    let session = container.exec(sh("seq 1 50000 >&2; echo out")).await?;
    drop(session.stderr);
    let stdout = tokio::time::timeout(PATIENCE, drain(session.stdout)).await;
    match stdout {
        Ok(stdout) => assert_eq!(stdout?, b"out\n"),
        Err(_) => fail!("a stream that was dropped blocks the other"),
    }
    assert_eq!(session.control.wait().await?.code, 0);
    Ok(())
}

/// Sends more input than all buffers on the path can hold to a process that exits without reading it: the
/// write fails, and the exit code is right or unknown.
async fn unread_input_does_not_hide_the_end(t: Context) -> Outcome {
    let container = t.shared().await?;
    let session = container.exec(sh("sleep 0.5; exit 3").mode(SessionMode::Stdin)).await?;
    let Session { stdin, stdout, stderr, control, .. } = session;
    let Some(mut stdin) = stdin else { fail!("the session has no standard input") };
    let write = async {
        for _ in 0..64 {
            stdin.write(Bytes::from(vec![b'x'; 1 << 20])).await?;
        }
        Ok::<_, Failure>(())
    };
    let stderr = stderr.unwrap_or_else(|| Box::pin(stream::empty()));
    let all = async { tokio::join!(write, drain(stdout), drain(stderr), control.wait()) };
    let Ok((_, _, _, exit)) = tokio::time::timeout(PATIENCE * 2, all).await else {
        fail!("the session does not end");
    };
    match exit {
        Ok(exit) => assert_eq!(exit.code, 3),
        lost => {
            refused_as(lost, &[ErrorKind::Lost])?;
        }
    }
    Ok(())
}

fn size(rows: u16, columns: u16) -> TerminalSize {
    TerminalSize { rows, columns }
}

async fn terminal(t: Context) -> Outcome {
    let container = t.shared().await?;
    let mode = SessionMode::Terminal(size(24, 80));
    let mut session = container.exec(sh("tty; read x; echo got $x; exit 5").mode(mode)).await?;
    assert!(session.stderr.is_none());
    input(&mut session)?.write(Bytes::from_static(b"word\n")).await?;
    let done = finish(session).await?;
    assert!(done.stdout.contains("/dev/pts/") || done.stdout.contains("/dev/console"));
    assert!(done.stdout.ends_with("got word\r\n"), "{:?}", done.stdout);
    assert_eq!(done.code, 5);
    Ok(())
}

async fn terminal_size_and_resize(t: Context) -> Outcome {
    let container = t.shared().await?;
    // Most engines set the first size just after the start, and not before.
    let script = "until [ \"$(stty size 2>&1)\" = '31 97' ]; do sleep 0.02; done
                  trap 'stty size; exit 0' WINCH; stty size; while :; do sleep 0.05; done";
    let options = sh(script).mode(SessionMode::Terminal(size(31, 97)));
    let mut session = container.exec(options).await?;
    let mut text = String::new();
    let mut resized = false;
    while let Some(bytes) = tokio::time::timeout(PATIENCE, session.stdout.next()).await? {
        text.push_str(&String::from_utf8_lossy(&bytes?));
        if !resized && text.contains("31 97") {
            session.control.resize(size(44, 133)).await?;
            resized = true;
        }
    }
    assert_eq!(text, "31 97\r\n44 133\r\n");
    assert_eq!(session.control.wait().await?.code, 0);
    refused(session.control.resize(size(1, 1)).await, ErrorKind::InvalidState)?;
    Ok(())
}

/// Engines have detach keys of their own: Ctrl-P Ctrl-Q.
async fn terminal_takes_every_byte(t: Context) -> Outcome {
    let container = t.shared().await?;
    let script = "stty raw -echo; echo ready; dd bs=1 count=6 2>/dev/null | od -An -tx1";
    let options = sh(script).mode(SessionMode::Terminal(size(24, 80)));
    let mut session = container.exec(options).await?;
    let mut text = String::new();
    while let Some(bytes) = tokio::time::timeout(PATIENCE, session.stdout.next()).await? {
        text.push_str(&String::from_utf8_lossy(&bytes?));
        if text.ends_with("ready\n") {
            let keys = Bytes::from_static(b"\x10\x11\x03\x04\x00\xff");
            input(&mut session)?.write(keys).await?;
        }
    }
    assert_eq!(text, "ready\n 10 11 03 04 00 ff\n");
    Ok(())
}

async fn resize_without_terminal(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    let session = container.exec(ExecOptions::new(["sleep", "60"])).await?;
    refused(session.control.resize(size(1, 1)).await, ErrorKind::InvalidState)?;
    Ok(())
}

async fn user(t: Context) -> Outcome {
    let container = t.shared().await?;
    let done = run(&*container, sh("echo $(id -u) $(id -g)").user("1234:5678")).await?;
    assert_eq!(done.stdout, "1234 5678\n");
    Ok(())
}

async fn env(t: Context) -> Outcome {
    let container = t.shared().await?;
    let options = sh("echo $KEPT \"$OTHER\"").env("OTHER", "$NEW  new");
    assert_eq!(run(&*container, options).await?.stdout, "kept $NEW  new\n");
    Ok(())
}

async fn working_dir(t: Context) -> Outcome {
    let container = t.shared().await?;
    let done = run(&*container, ExecOptions::new(["pwd"]).working_dir("/var/tmp")).await?;
    assert_eq!(done.stdout, "/var/tmp\n");
    Ok(())
}

/// Environment and directory, set by programs of the image if the engine does not support them.
async fn with_the_tools_of_the_image(t: Context) -> Outcome {
    let container = t.shared().await?;
    let options = sh("echo $KEPT \"$OTHER\"; pwd; exit 4").env("OTHER", "$NEW  new");
    let done = run(&*container, options.working_dir("/var/tmp").image_tools(true)).await?;
    assert_eq!((done.stdout.as_str(), done.code), ("kept $NEW  new\n/var/tmp\n", 4));
    Ok(())
}

async fn signal(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    let script = "trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done";
    let mut session = container.exec(sh(script)).await?;
    match tokio::time::timeout(PATIENCE, session.stdout.next()).await? {
        Some(bytes) => assert_eq!(bytes?, "ready\n"),
        None => fail!("the session has ended"),
    }
    session.control.signal(Signal::USR1).await?;
    assert_eq!(session.control.wait().await?.code, 9);
    refused(session.control.signal(Signal::USR1).await, ErrorKind::InvalidState)?;
    Ok(())
}

async fn command_not_found(t: Context) -> Outcome {
    let container = t.shared().await?;
    let tried = container.exec(ExecOptions::new(["no-such-command"])).await;
    let error = refused(tried, ErrorKind::InvalidArgument)?;
    assert_eq!(error.field(), Some("command"));
    let none = container.exec(ExecOptions::new(Vec::<String>::new())).await;
    assert_eq!(refused(none, ErrorKind::InvalidArgument)?.field(), Some("command"));
    Ok(())
}

async fn in_created(t: Context) -> Outcome {
    let container = t.create(&t.idle()).await?;
    refused(container.exec(ExecOptions::new(["true"])).await, ErrorKind::NotStarted)?;
    Ok(())
}

async fn in_exited(t: Context) -> Outcome {
    let (container, _) = t.run(&t.script("exit 0")).await?;
    refused(container.exec(ExecOptions::new(["true"])).await, ErrorKind::InvalidState)?;
    Ok(())
}

/// The process of an exec needs more memory than its container has. The kernel kills the largest process.
async fn out_of_memory(t: Context) -> Outcome {
    let container = t.start(&t.idle().memory(16 << 20)).await?;
    let done = run(&*container, ExecOptions::new(["tail", "/dev/zero"])).await?;
    assert_eq!(done.code, 137);
    assert_eq!(container.info().await?.status, ContainerStatus::Running);
    Ok(())
}

/// The container has no memory left, so that no process can be started in it. The session ends with 137, even
/// if the engine reports an error message instead of an exit code.
async fn in_a_container_without_memory(t: Context) -> Outcome {
    let script = "head -c 15300000 /dev/zero >/dev/shm/all; echo full; sleep 1000";
    let spec = t.spec().command(["sh", "-c", script]).memory(16 << 20);
    let container = t.start(&spec).await?;
    t.until_logged(&*container, "full").await?;
    for options in [ExecOptions::new(["true"]), ExecOptions::new(["echo", "out"])] {
        let done = run(&*container, options).await?;
        assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (137, "", ""));
    }
    assert_eq!(container.info().await?.status, ContainerStatus::Running);
    Ok(())
}

async fn many_at_once(t: Context) -> Outcome {
    let container = t.shared().await?;
    let scripts: Vec<_> = (0..16).map(|i| format!("echo {i}; exit {i}")).collect();
    let done = futures_util::future::try_join_all(
        scripts.iter().map(|script| run(&*container, sh(script))),
    )
    .await?;
    for (i, done) in (0..16).zip(done) {
        assert_eq!((done.stdout, done.code), (format!("{i}\n"), i));
    }
    Ok(())
}

async fn dropped_in_mid_session(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    for _ in 0..10 {
        let mut session = container.exec(ExecOptions::new(["yes"])).await?;
        assert!(session.stdout.next().await.is_some());
        drop(session);
    }
    assert_eq!(run(&*container, ExecOptions::new(["echo", "fine"])).await?.stdout, "fine\n");
    Ok(())
}

async fn dropped_session_ends_its_process(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    drop(container.exec(ExecOptions::new(["sleep", "4321"])).await?);
    until(PATIENCE, "the end of the process", || async {
        let done = run(&*container, ExecOptions::new(["ps", "-o", "args"])).await?;
        Ok((!done.stdout.contains("sleep 4321")).then_some(()))
    })
    .await
}

/// The children of a process end with it, no matter how it ends: by a signal that it cannot handle, by one
/// that it does not handle, or with its session.
async fn ended_process_takes_descendants_with_it(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    let script = "sleep 4322 & (sleep 4323 & setsid sleep 4324) & echo ready; sleep 4325";
    for signal in [Some(Signal::KILL), Some(Signal::TERM), None] {
        let mut session = container.exec(sh(script)).await?;
        let Some(line) = session.stdout.next().await else { fail!("the script has ended") };
        assert_eq!(line?, Bytes::from_static(b"ready\n"));
        let processes = || async {
            let done = run(&*container, ExecOptions::new(["ps", "-o", "args"])).await?;
            let lines = done.stdout.lines().filter(|line| line.starts_with("sleep 432"));
            Ok::<_, Failure>(lines.count())
        };
        until(PATIENCE, "all processes of the script", || async {
            Ok((processes().await? == 4).then_some(()))
        })
        .await?;
        match signal {
            Some(signal) => {
                session.control.signal(signal).await?;
                let code = i32::from(128 + signal.number());
                assert_eq!(finish(session).await?.code, code, "{signal}");
            }
            None => drop(session),
        }
        until(PATIENCE, "the end of all processes", || async {
            Ok((processes().await? == 0).then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// The container is removed during the session: the exit code is unknown, and never 0.
async fn cut_off_is_lost(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    let session = container.exec(ExecOptions::new(["sleep", "3600"])).await?;
    let control = session.control.clone();
    container.remove().await?;
    match tokio::time::timeout(PATIENCE, control.wait()).await {
        Ok(Ok(exit)) => assert_eq!(exit.code, 137, "the kill of the container was seen"),
        Ok(lost) => {
            refused_as(lost, &[ErrorKind::Lost])?;
        }
        Err(_) => fail!("the session of a removed container goes on"),
    }
    Ok(())
}

async fn wait_from_many(t: Context) -> Outcome {
    let container = t.shared().await?;
    let session = container.exec(sh("sleep 0.1; exit 6")).await?;
    let waits = (0..10).map(|_| session.control.wait());
    let all = tokio::time::timeout(
        PATIENCE + Duration::from_secs(1),
        futures_util::future::try_join_all(waits),
    );
    assert!(all.await??.iter().all(|exit| exit.code == 6));
    assert_eq!(session.control.wait().await?.code, 6);
    Ok(())
}
