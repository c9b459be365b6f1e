//! Backpressure: a stalled session uses no memory, because unread data stays at the sender.

use std::cell::Cell;
use std::time::Duration;

use futures_util::StreamExt as _;
use runtime_core::{Bytes, ExecOptions, SessionMode};
use tokio::time::Instant;

use crate::case::cases;
use crate::failure::fail;
use crate::poll::{PATIENCE, until};
use crate::{Context, Failure, Outcome};

cases! { "exec":
    unread_output_takes_no_memory [Exec] exclusive long;
    untaken_input_stands_still [Exec] exclusive long;
}

/// Memory that this process may use in addition for a stalled session.
const ROOM: u64 = 16 << 20;

/// Returns the resident memory of this process, in bytes.
fn memory() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let Some(number) = line.and_then(|line| line.split_whitespace().next()) else {
        fail!("the kernel does not say what this process has: {status}");
    };
    Ok(number.parse::<u64>()? << 10)
}

/// Waits until a number has not changed for two seconds. Meanwhile the memory must stay near its previous
/// value.
async fn stands_still(before: u64, number: impl Fn() -> usize) -> Outcome {
    let (mut last, mut since) = (number(), Instant::now());
    let mut look = || {
        let grown = memory()?.saturating_sub(before);
        if grown >= ROOM {
            fail!("there are {grown} bytes more");
        }
        let now = number();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        Ok((since.elapsed() >= Duration::from_secs(2)).then_some(()))
    };
    until(PATIENCE, "a session that stands still", || std::future::ready(look())).await
}

async fn unread_output_takes_no_memory(t: Context) -> Outcome {
    let container = t.shared().await?;
    let before = memory()?;
    let mut session = container.exec(ExecOptions::new(["yes"])).await?;
    assert!(session.stdout.next().await.is_some());
    stands_still(before, || 0).await?;
    // The process was blocked, and continues.
    let mut read = 0;
    while read < 4 << 20 {
        match tokio::time::timeout(PATIENCE, session.stdout.next()).await? {
            Some(bytes) => read += bytes?.len(),
            None => fail!("the session has ended after {read} bytes"),
        }
    }
    Ok(())
}

/// Sends more input than all buffers on the path can hold.
async fn untaken_input_stands_still(t: Context) -> Outcome {
    const ALL: usize = 64 << 20;
    const PIECE: usize = 1 << 20;
    let container = t.ready(&t.idle()).await?;
    let before = memory()?;
    let options = ExecOptions::new(["sleep", "3600"]).mode(SessionMode::Stdin);
    let mut session = container.exec(options).await?;
    let Some(mut stdin) = session.stdin.take() else {
        fail!("the session has no standard input");
    };
    let written = Cell::new(0);
    let write = async {
        while written.get() < ALL {
            stdin.write(Bytes::from(vec![b'x'; PIECE])).await?;
            written.set(written.get() + PIECE);
        }
        Ok::<_, Failure>(())
    };
    tokio::select! {
        done = write => {
            done?;
            fail!("{ALL} bytes have gone to a process that reads nothing");
        }
        stands = stands_still(before, || written.get()) => stands,
    }
}
