//! What the engines of several backends do otherwise than the suite says.

use runtime_conformance::{Context, Difference, Outcome};
use runtime_core::LogOptions;

/// Of containerd, and of clusters whose nodes have it.
#[must_use]
pub fn no_last_carriage_return() -> Difference {
    Difference {
        case: "logs::records_are_lines",
        reason: "containerd leaves a carriage return out that stands before a line end",
        instead: |t| Box::pin(lines_without_their_last_carriage_return(t)),
    }
}

/// The case of the suite, but for the one byte that containerd does not write into the log file.
async fn lines_without_their_last_carriage_return(t: Context) -> Outcome {
    let script = t.script("echo one; echo; echo '  three  '; printf 'a\\rb\\r\\nc\\r\\r\\n'");
    let (container, _) = t.run(&script).await?;
    let records = t.records(&*container, LogOptions::default()).await?;
    let lines: Vec<&[u8]> = records.iter().map(|record| &record.bytes[..]).collect();
    assert_eq!(lines, [b"one\n".as_slice(), b"\n", b"  three  \n", b"a\rb\n", b"c\r\n"]);
    assert!(records.iter().all(|record| !record.continues));
    assert!(records.is_sorted_by_key(|record| record.time));
    Ok(())
}
