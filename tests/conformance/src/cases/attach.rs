//! Attaching to the main process.

use futures_util::StreamExt as _;
use runtime_core::{
    AttachOptions, Bytes, ErrorKind, Interactive, Session, SessionMode, TerminalSize,
};

use super::exec::drain;
use crate::case::cases;
use crate::expect::refused;
use crate::failure::fail;
use crate::poll::PATIENCE;
use crate::{Context, Failure, Outcome};

cases! { "attach":
    output_from_the_start [Attach, AttachCreated];
    stdin_and_its_end [Attach, InteractiveStdin, ExecStdinEof, Wait];
    terminal [Attach, Terminal, Wait];
    terminal_from_the_start [Attach, AttachCreated, Terminal, Wait];
    terminal_resize [Attach, Terminal];
    with_stdin_to_one_without [Attach];
    to_an_exited_one [Attach, Wait];
    dropped_session_leaves_it_running [Attach];
}

/// Reads from a session until `word` has been received.
async fn until(session: &mut Session, word: &str) -> Result<String, Failure> {
    let mut text = String::new();
    while !text.contains(word) {
        match tokio::time::timeout(PATIENCE, session.stdout.next()).await {
            Ok(Some(bytes)) => text.push_str(&String::from_utf8_lossy(&bytes?)),
            Ok(None) => fail!("the session has ended after {text:?}"),
            Err(_) => fail!("{word:?} has not come after {text:?}"),
        }
    }
    Ok(text)
}

async fn write(session: &mut Session, bytes: &'static [u8]) -> Outcome {
    let Some(stdin) = session.stdin.as_mut() else { fail!("the session has no standard input") };
    stdin.write(Bytes::from_static(bytes)).await?;
    Ok(())
}

async fn output_from_the_start(t: Context) -> Outcome {
    let container = t.create(&t.script("echo out; echo err >&2; exit 8")).await?;
    let session = container.attach(AttachOptions::default()).await?;
    container.start().await?;
    let Some(stderr) = session.stderr else { fail!("the session has no standard error") };
    let all = async { tokio::join!(drain(session.stdout), drain(stderr), session.control.wait()) };
    let (stdout, stderr, exit) = tokio::time::timeout(PATIENCE, all).await?;
    assert_eq!((stdout?, stderr?, exit?.code), (b"out\n".to_vec(), b"err\n".to_vec(), 8));
    assert_eq!(t.text(&*container).await?.len(), 8, "the log has it too");
    Ok(())
}

async fn stdin_and_its_end(t: Context) -> Outcome {
    let spec = t.script("cat; echo eof; exit 9").interactive(Interactive::Stdin);
    let container = t.start(&spec).await?;
    let options = AttachOptions::default().mode(SessionMode::Stdin);
    let mut session = container.attach(options).await?;
    write(&mut session, b"to the main process\n").await?;
    until(&mut session, "to the main process\n").await?;
    match session.stdin.as_mut() {
        Some(stdin) => stdin.close().await?,
        None => fail!("the session has no standard input"),
    }
    until(&mut session, "eof\n").await?;
    assert_eq!(container.wait().await?.code, Some(9));
    Ok(())
}

fn terminal_of(rows: u16, columns: u16) -> AttachOptions {
    AttachOptions::default().mode(SessionMode::Terminal(TerminalSize { rows, columns }))
}

async fn terminal(t: Context) -> Outcome {
    let spec = t.script("read x; echo got $x; exit 3").interactive(Interactive::Terminal);
    let container = t.start(&spec).await?;
    let mut session = container.attach(terminal_of(24, 80)).await?;
    assert!(session.stderr.is_none());
    write(&mut session, b"word\n").await?;
    until(&mut session, "got word\r\n").await?;
    assert_eq!(container.wait().await?.code, Some(3));
    Ok(())
}

async fn terminal_from_the_start(t: Context) -> Outcome {
    let script = "echo first; read x; echo got $x; exit 3";
    let container = t.create(&t.script(script).interactive(Interactive::Terminal)).await?;
    let mut session = container.attach(terminal_of(24, 80)).await?;
    container.start().await?;
    until(&mut session, "first\r\n").await?;
    write(&mut session, b"word\n").await?;
    until(&mut session, "got word\r\n").await?;
    assert_eq!(container.wait().await?.code, Some(3));
    Ok(())
}

async fn terminal_resize(t: Context) -> Outcome {
    let script = "trap 'stty size' WINCH; while :; do echo ready; sleep 0.05; done";
    let container = t.start(&t.script(script).interactive(Interactive::Terminal)).await?;
    let mut session = container.attach(terminal_of(24, 80)).await?;
    until(&mut session, "ready").await?;
    session.control.resize(TerminalSize { rows: 44, columns: 133 }).await?;
    until(&mut session, "44 133\r\n").await?;
    Ok(())
}

async fn with_stdin_to_one_without(t: Context) -> Outcome {
    let container = t.shared().await?;
    let stdin = AttachOptions::default().mode(SessionMode::Stdin);
    refused(container.attach(stdin).await, ErrorKind::InvalidState)?;
    refused(container.attach(terminal_of(24, 80)).await, ErrorKind::InvalidState)?;
    Ok(())
}

async fn to_an_exited_one(t: Context) -> Outcome {
    let (container, _) = t.run(&t.script("exit 0")).await?;
    refused(container.attach(AttachOptions::default()).await, ErrorKind::InvalidState)?;
    Ok(())
}

async fn dropped_session_leaves_it_running(t: Context) -> Outcome {
    let container = t.ready(&t.graceful()).await?;
    drop(container.attach(AttachOptions::default()).await?);
    assert_eq!(container.info().await?.status, runtime_core::ContainerStatus::Running);
    let mut session = container.attach(AttachOptions::default()).await?;
    container.stop(runtime_core::StopOptions::default()).await?;
    until(&mut session, "bye\n").await?;
    Ok(())
}
