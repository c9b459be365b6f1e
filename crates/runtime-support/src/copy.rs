//! Copies through the container's own `sh` and `tar`, for engines without a copy request.
//!
//! An engine may truncate the input of an exec and still report success. Therefore the script in
//! the container counts the received bytes and reports the number. The script first reports that it
//! is ready, so that no data is sent to a script that does not read it; engines do not report an
//! exit in that case.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::{StreamExt, stream};
use runtime_core::{
    ByteStream, Capability, Container, Error, ErrorKind, ExecOptions, Result, Session,
    SessionControl, SessionInput, SessionMode,
};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::check::check_path;
use crate::tar::{TarEnd, TarOwners};

/// Exit code of the scripts if the path is not a directory.
const EXIT_NOT_A_DIRECTORY: i32 = 65;
/// Exit code if the path does not exist.
const EXIT_NOT_FOUND: i32 = 66;
/// Exit code if a required program is missing.
const EXIT_MISSING_PROGRAM: i32 = 69;

/// Unpacks stdin into the directory `$1`. Prints `ready`, then `tar` with the exit code of tar and
/// the number of bytes received, each on a line, in either order.
const UNPACK_SCRIPT: &str = r#"
for program in tar tee wc cat; do command -v $program >/dev/null 2>&1 || exit 69; done
[ -e "$1" ] || exit 66
[ -d "$1" ] || exit 65
echo ready
exec 4>&1
{ tee /dev/fd/3 | wc -c >&4 3>&-; } 3>&1 | { tar -xpf - -C "$1"; echo "tar $?" >&4; cat >/dev/null; }
"#;

/// Packs `$2` in the directory `$1`.
const PACK_SCRIPT: &str = r#"
command -v tar >/dev/null 2>&1 || exit 69
cd -- "$1" 2>/dev/null || exit 66
[ -e "$2" ] || [ -L "$2" ] || exit 66
exec tar -cf - -- "$2"
"#;

/// Maximum number of bytes kept of tar's messages.
const MESSAGES_SIZE_MAX: usize = 4096;

/// Unpacks a tar stream into the directory `path` of a running container. `inactivity` is the maximum
/// time without progress.
///
/// # Errors
/// The errors of [`Container::copy_in`]; `Unsupported` if the image lacks a program; `Lost` if the
/// container did not receive all bytes.
pub async fn unpack(
    container: &dyn Container,
    path: &str,
    content: ByteStream,
    inactivity: Duration,
) -> Result<()> {
    check_path(path)?;
    let options =
        ExecOptions::new(["sh", "-c", UNPACK_SCRIPT, "sh", path]).mode(SessionMode::Stdin);
    let session = container.exec(options).await;
    let session = session.map_err(|error| no_shell(error, Capability::CopyIn))?;
    let Session { stdin, stdout, stderr, control, .. } = session;
    let stdin = stdin.ok_or_else(|| Error::internal("the session has no stdin"))?;
    let (report_sender, report) = watch::channel(ScriptReport::default());
    let all_sent = Notify::new();
    let work = async {
        futures_util::try_join!(
            async {
                let sent = send(stdin, content, report, inactivity).await?;
                all_sent.notify_one();
                Ok(sent)
            },
            read_reports(stdout, report_sender),
            async { Ok(messages(stderr).await) },
        )
    };
    let overdue = async {
        all_sent.notified().await;
        tokio::time::sleep(inactivity).await;
    };
    let (sent, report, messages) = tokio::select! {
        done = work => done?,
        () = overdue => return Err(stalled(inactivity)),
    };
    if !report.ready {
        let code = exit(&*control, inactivity).await?;
        return Err(not_ready(code, &messages, Capability::CopyIn));
    }
    all_unpacked(report, sent, &messages)
}

/// Checks that the script received and unpacked all bytes.
fn all_unpacked(report: ScriptReport, sent: Sent, messages: &str) -> Result<()> {
    match report {
        ScriptReport { tar: Some(0), count: Some(count), .. } if count == sent.bytes => Ok(()),
        ScriptReport { tar: Some(0) | None, count, .. } => {
            let error = Error::new(ErrorKind::Lost).with_message(match count {
                Some(count) if count == sent.bytes => {
                    "the container did not confirm that all was unpacked".to_owned()
                }
                Some(count) => format!("the container received {count} of {} bytes", sent.bytes),
                None => "the container did not report how many bytes it received".to_owned(),
            });
            Err(match sent.failure {
                Some(failure) => error.with_source(failure),
                None => error,
            })
        }
        ScriptReport { .. } => Err(unpack_failure(messages)),
    }
}

/// Packs the file or directory `path` of a running container into a tar stream. `inactivity` is the
/// maximum time without output.
///
/// # Errors
/// The errors of [`Container::copy_out`]; `Unsupported` if the image lacks a program.
pub async fn pack(
    container: &dyn Container,
    path: &str,
    inactivity: Duration,
) -> Result<ByteStream> {
    check_path(path)?;
    let (directory, name) = split_path(path);
    let options = ExecOptions::new(["sh", "-c", PACK_SCRIPT, "sh", directory, name]);
    let session = container.exec(options).await;
    let session = session.map_err(|error| no_shell(error, Capability::CopyOut))?;
    let Session { stdout, stderr, control, .. } = session;
    let mut pack = PackStream {
        stdout,
        messages: Messages::Reading(messages(stderr).boxed()),
        control,
        end: TarEnd::default(),
        inactivity,
    };
    match pack.piece().await {
        None => {
            let code = exit(&*pack.control, inactivity).await?;
            Err(not_ready(code, &pack.messages.all().await, Capability::CopyOut))
        }
        Some(first) => {
            let first = first?;
            pack.end.push(&first);
            let rest = stream::unfold(Some(pack), |pack| async move {
                let mut pack = pack?;
                match pack.piece().await {
                    Some(Ok(piece)) => {
                        pack.end.push(&piece);
                        Some((Ok(piece), Some(pack)))
                    }
                    Some(Err(error)) => Some((Err(error), None)),
                    None => pack.finish().await.err().map(|error| (Err(error), None)),
                }
            });
            Ok(stream::iter([Ok(first)]).chain(rest).boxed())
        }
    }
}

/// Splits a path into its parent directory and its last component.
fn split_path(path: &str) -> (&str, &str) {
    let path = path.trim_end_matches('/');
    match path.rsplit_once('/') {
        Some((_, "." | "..")) => (path, "."),
        Some(("", name)) => ("/", name),
        Some((directory, name)) => (directory, name),
        None => ("/", "."),
    }
}

/// Reports of the unpack script.
#[derive(Debug, Clone, Copy, Default)]
struct ScriptReport {
    ready: bool,
    tar: Option<i32>,
    count: Option<u64>,
}

impl ScriptReport {
    fn line(&mut self, line: &str) {
        match line.trim() {
            "ready" => self.ready = true,
            line => match line.strip_prefix("tar ") {
                Some(code) => self.tar = code.parse().ok(),
                None => self.count = line.parse().ok(),
            },
        }
    }
}

struct Sent {
    bytes: u64,
    /// Error that ended the transfer early.
    failure: Option<Error>,
}

/// Sends the content after the script is ready, until tar fails.
///
/// # Errors
/// The errors of `content`; `Timeout`.
async fn send(
    mut stdin: Box<dyn SessionInput>,
    mut content: ByteStream,
    mut report: watch::Receiver<ScriptReport>,
    inactivity: Duration,
) -> Result<Sent> {
    let (mut sent, mut owners) = (Sent { bytes: 0, failure: None }, TarOwners::default());
    match timeout(inactivity, report.wait_for(|report| report.ready)).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) => return Ok(sent),
        Err(_) => return Err(stalled(inactivity)),
    }
    loop {
        let piece = tokio::select! {
            biased;
            // Also taken if the script has ended.
            _ = report.wait_for(|report| report.tar.is_some_and(|code| code != 0)) => break,
            piece = content.next() => piece,
        };
        let (piece, is_last) = match piece.transpose()? {
            Some(piece) => (owners.rewrite(piece), false),
            None => (std::mem::take(&mut owners).rest(), true),
        };
        match piece.is_empty() {
            true if is_last => break,
            true => continue,
            false => {}
        }
        let length = piece.len() as u64;
        match timeout(inactivity, stdin.write(piece)).await {
            Ok(Ok(())) => sent.bytes += length,
            Ok(Err(error)) => {
                sent.failure = Some(error);
                return Ok(sent);
            }
            Err(_) => return Err(stalled(inactivity)),
        }
        if is_last {
            break;
        }
    }
    match timeout(inactivity, stdin.close()).await {
        Ok(closed) => sent.failure = closed.err(),
        Err(_) => return Err(stalled(inactivity)),
    }
    Ok(sent)
}

/// Reads the reports of the script to their end.
async fn read_reports(
    mut stdout: ByteStream,
    sender: watch::Sender<ScriptReport>,
) -> Result<ScriptReport> {
    let (mut report, mut open) = (ScriptReport::default(), Vec::new());
    while let Some(piece) = stdout.next().await.transpose()? {
        for byte in piece {
            match byte {
                b'\n' => report.line(&String::from_utf8_lossy(&std::mem::take(&mut open))),
                byte if open.len() < MESSAGES_SIZE_MAX => open.push(byte),
                _ => {}
            }
        }
        sender.send_replace(report);
    }
    Ok(report)
}

/// Reads stderr to its end and returns its beginning.
async fn messages(stderr: Option<ByteStream>) -> String {
    let mut messages = Vec::new();
    if let Some(mut stderr) = stderr {
        while let Some(Ok(piece)) = stderr.next().await {
            let room = piece.len().min(MESSAGES_SIZE_MAX - messages.len());
            messages.extend_from_slice(&piece[..room]);
        }
    }
    String::from_utf8_lossy(&messages).trim().to_owned()
}

enum Messages {
    Reading(BoxFuture<'static, String>),
    Read(String),
}

impl Messages {
    async fn read(&mut self) {
        match self {
            Self::Reading(reading) => *self = Self::Read(reading.await),
            Self::Read(_) => std::future::pending().await,
        }
    }

    async fn all(&mut self) -> String {
        match self {
            Self::Reading(reading) => reading.await,
            Self::Read(messages) => messages.clone(),
        }
    }
}

/// A running pack.
struct PackStream {
    stdout: ByteStream,
    messages: Messages,
    control: Arc<dyn SessionControl>,
    end: TarEnd,
    inactivity: Duration,
}

impl PackStream {
    /// Returns the next chunk, and reads stderr meanwhile.
    async fn piece(&mut self) -> Option<Result<Bytes>> {
        let Self { stdout, messages, inactivity, .. } = self;
        let mut next = Pin::new(stdout);
        let piece = async {
            loop {
                tokio::select! {
                    piece = next.next() => return piece,
                    () = messages.read() => {}
                }
            }
        };
        timeout(*inactivity, piece).await.unwrap_or_else(|_| Some(Err(stalled(*inactivity))))
    }

    /// Waits for the exit and checks that the archive is complete.
    async fn finish(&mut self) -> Result<()> {
        let code = exit(&*self.control, self.inactivity).await?;
        let messages = if code == 0 { String::new() } else { self.messages.all().await };
        all_packed(code, self.end.is_whole(), &messages)
    }
}

/// Checks the exit code of tar and the completeness of the archive.
fn all_packed(code: i32, is_whole: bool, messages: &str) -> Result<()> {
    if code != 0 {
        return Err(Error::internal(format!("tar exited with code {code}: {messages}")));
    }
    if !is_whole {
        return Err(Error::new(ErrorKind::Lost).with_message("the archive is incomplete"));
    }
    Ok(())
}

async fn exit(control: &dyn SessionControl, inactivity: Duration) -> Result<i32> {
    match timeout(inactivity, control.wait()).await {
        Ok(exit) => Ok(exit?.code),
        Err(_) => Err(stalled(inactivity)),
    }
}

fn stalled(inactivity: Duration) -> Error {
    Error::new(ErrorKind::Timeout)
        .with_message(format!("the copy made no progress for {inactivity:?}"))
}

fn no_shell(error: Error, capability: Capability) -> Error {
    if error.kind() == ErrorKind::InvalidArgument && error.field() == Some("command") {
        return Error::unsupported(capability)
            .with_message("the image has no `sh`, which copies require on this engine")
            .with_source(error);
    }
    error
}

/// Returns the error of a script that ended before it was ready.
fn not_ready(code: i32, messages: &str, capability: Capability) -> Error {
    match code {
        EXIT_NOT_A_DIRECTORY => Error::invalid("path", "is not a directory"),
        EXIT_NOT_FOUND => Error::new(ErrorKind::NotFound).with_field("path"),
        EXIT_MISSING_PROGRAM => Error::unsupported(capability).with_message(
            "the image lacks `tar`, `tee`, `wc` or `cat`, which copies require on this engine",
        ),
        _ => Error::internal(format!("the copy exited with code {code}: {messages}")),
    }
}

/// Returns the error for tar's messages about a failed unpack.
fn unpack_failure(messages: &str) -> Error {
    let text = messages.to_lowercase();
    let contains = |messages: &[&str]| messages.iter().any(|word| text.contains(word));
    if contains(&["no space left on device", "quota exceeded"]) {
        Error::new(ErrorKind::ResourceExhausted).with_message(messages)
    } else if contains(&["permission denied", "operation not permitted", "read-only file system"]) {
        Error::new(ErrorKind::PermissionDenied).with_message(messages)
    } else if contains(&[
        "magic",
        "does not look like a tar",
        "short read",
        "unexpected eof",
        "checksum",
    ]) {
        Error::invalid("content", format!("is not a complete tar stream: {messages}"))
    } else {
        Error::internal(format!("tar failed: {messages}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An input that is never read.
    struct Unread;

    #[runtime_core::async_trait]
    impl SessionInput for Unread {
        async fn write(&mut self, _: Bytes) -> Result<()> {
            std::future::pending().await
        }

        async fn close(&mut self) -> Result<()> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn script_that_never_gets_ready_times_out() {
        let (_report, report) = watch::channel(ScriptReport::default());
        let content = stream::iter([Ok(Bytes::from_static(b"x"))]).boxed();
        let inactivity = Duration::from_secs(30);
        let sent =
            timeout(inactivity * 2, send(Box::new(Unread), content, report, inactivity)).await;
        assert_eq!(sent.unwrap().err().map(|error| error.kind()), Some(ErrorKind::Timeout));
    }

    #[test]
    fn split_path_returns_directory_and_last_component() {
        for (path, directory, name) in [
            ("/srv/out", "/srv", "out"),
            ("/srv/out/", "/srv", "out"),
            ("/srv", "/", "srv"),
            ("/", "/", "."),
            ("/a/..", "/a/..", "."),
        ] {
            assert_eq!(split_path(path), (directory, name), "{path}");
        }
    }

    #[test]
    fn script_report_parses_lines() {
        let mut report = ScriptReport::default();
        for line in ["ready", "  10240", "tar 1"] {
            report.line(line);
        }
        assert_eq!((report.ready, report.tar, report.count), (true, Some(1), Some(10_240)));
    }

    #[test]
    fn unpack_without_confirmation_returns_lost() {
        let lost = |messages: &'static str| Some((ErrorKind::Lost, messages));
        for (tar, count, failed, wanted) in [
            (Some(0), Some(10_240), false, None),
            // A process may close its input after it has read everything.
            (Some(0), Some(10_240), true, None),
            (Some(0), Some(10_239), false, lost("10239 of 10240 bytes")),
            (Some(0), Some(0), true, lost("0 of 10240 bytes")),
            (Some(0), None, false, lost("how many")),
            (None, Some(4096), true, lost("4096 of 10240 bytes")),
            (None, Some(10_240), false, lost("confirm that all was unpacked")),
            (None, None, false, lost("how many")),
            (Some(1), Some(10_240), false, Some((ErrorKind::InvalidArgument, "short read"))),
            (Some(1), None, true, Some((ErrorKind::InvalidArgument, "short read"))),
        ] {
            let report = ScriptReport { ready: true, tar, count };
            let failure = failed.then(|| Error::internal("the input was closed"));
            let outcome = all_unpacked(report, Sent { bytes: 10_240, failure }, "tar: short read");
            let case = format!("tar {tar:?}, count {count:?}: {outcome:?}");
            assert_eq!(
                outcome.as_ref().err().map(Error::kind),
                wanted.map(|(kind, _)| kind),
                "{case}"
            );
            if let (Err(error), Some((kind, messages))) = (outcome, wanted) {
                assert!(error.to_string().contains(messages), "{case}");
                let has_source = std::error::Error::source(&error).is_some();
                assert_eq!(has_source, failed && kind == ErrorKind::Lost, "{case}");
            }
        }
    }

    #[test]
    fn incomplete_archive_returns_lost() {
        for (code, is_whole, wanted) in [
            (0, true, None),
            (0, false, Some(ErrorKind::Lost)),
            (1, true, Some(ErrorKind::Internal)),
            (137, false, Some(ErrorKind::Internal)),
        ] {
            let outcome = all_packed(code, is_whole, "no such file");
            assert_eq!(outcome.as_ref().err().map(Error::kind), wanted, "{code} {is_whole}");
            if code != 0 {
                let messages = outcome.unwrap_err().to_string();
                assert!(messages.contains(&code.to_string()) && messages.contains("no such file"));
            }
        }
    }

    #[test]
    fn unpack_failure_sets_error_kind_and_field() {
        // Messages of busybox 1.35 and GNU tar 1.34.
        for (messages, kind, field) in [
            ("tar: invalid tar magic", ErrorKind::InvalidArgument, Some("content")),
            ("tar: short read", ErrorKind::InvalidArgument, Some("content")),
            (
                "tar: This does not look like a tar archive",
                ErrorKind::InvalidArgument,
                Some("content"),
            ),
            ("tar: write error: No space left on device", ErrorKind::ResourceExhausted, None),
            ("tar: can't open 'a': Permission denied", ErrorKind::PermissionDenied, None),
            ("oops", ErrorKind::Internal, None),
        ] {
            let error = unpack_failure(messages);
            assert_eq!((error.kind(), error.field()), (kind, field), "{messages}");
        }
    }
}
