//! Files into containers and out of them, where the engine has no call for it: through an exec of
//! the container's own `sh` and `tar`.
//!
//! An engine can cut the input of an exec short and say that all went well. So the far side counts
//! what comes in, and says the number. It begins with a word that it is ready, so that nothing is
//! sent to one that will not read it: engines then do not say how it ended.

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

/// What the scripts say with their exit code: the path is no folder.
const NO_FOLDER: i32 = 65;
/// The path is not there.
const NO_PATH: i32 = 66;
/// A program is not there.
const NO_PROGRAM: i32 = 69;

/// Unpacks its input into the folder `$1`. It says `ready`, `tar` with the exit code of tar, and
/// the number of bytes that came, each on a line; the last two in either order.
const UNPACK: &str = r#"
for program in tar tee wc cat; do command -v $program >/dev/null 2>&1 || exit 69; done
[ -e "$1" ] || exit 66
[ -d "$1" ] || exit 65
echo ready
exec 4>&1
{ tee /dev/fd/3 | wc -c >&4 3>&-; } 3>&1 | { tar -xpf - -C "$1"; echo "tar $?" >&4; cat >/dev/null; }
"#;

/// Packs `$2` in the folder `$1`.
const PACK: &str = r#"
command -v tar >/dev/null 2>&1 || exit 69
cd -- "$1" 2>/dev/null || exit 66
[ -e "$2" ] || [ -L "$2" ] || exit 66
exec tar -cf - -- "$2"
"#;

/// How much of what tar says is kept.
const WORDS: usize = 4096;

/// Unpacks a tar stream into the folder `path` of a running container. `silence` is how long the
/// container may take nothing.
///
/// # Errors
/// Those of [`Container::copy_in`]; `Unsupported` when the image lacks a program; `Lost` when not
/// all of it came through.
pub async fn unpack(
    container: &dyn Container,
    path: &str,
    content: ByteStream,
    silence: Duration,
) -> Result<()> {
    check_path(path)?;
    let options = ExecOptions::new(["sh", "-c", UNPACK, "sh", path]).mode(SessionMode::Stdin);
    let session = container.exec(options).await;
    let session = session.map_err(|error| no_shell(error, Capability::CopyIn))?;
    let Session { stdin, stdout, stderr, control, .. } = session;
    let stdin = stdin.ok_or_else(|| Error::internal("the session has no input"))?;
    let (report, said) = watch::channel(Said::default());
    let all_sent = Notify::new();
    let work = async {
        futures_util::try_join!(
            async {
                let sent = send(stdin, content, said, silence).await?;
                all_sent.notify_one();
                Ok(sent)
            },
            listen(stdout, report),
            async { Ok(words(stderr).await) },
        )
    };
    let overdue = async {
        all_sent.notified().await;
        tokio::time::sleep(silence).await;
    };
    let (sent, said, words) = tokio::select! {
        done = work => done?,
        () = overdue => return Err(stands_still(silence)),
    };
    if !said.ready {
        let code = exit(&*control, silence).await?;
        return Err(not_ready(code, &words, Capability::CopyIn));
    }
    all_unpacked(said, sent, &words)
}

/// Whether the far side confirms that all that was sent came to it and was unpacked.
fn all_unpacked(said: Said, sent: Sent, words: &str) -> Result<()> {
    match said {
        Said { tar: Some(0), count: Some(count), .. } if count == sent.bytes => Ok(()),
        Said { tar: Some(0) | None, count, .. } => {
            let error = Error::new(ErrorKind::Lost).with_message(match count {
                Some(count) if count == sent.bytes => {
                    "the container does not say whether all was unpacked".to_owned()
                }
                Some(count) => format!("{count} of {} bytes came to the container", sent.bytes),
                None => "the container does not say how much came to it".to_owned(),
            });
            Err(match sent.failure {
                Some(failure) => error.with_source(failure),
                None => error,
            })
        }
        Said { .. } => Err(refused(words)),
    }
}

/// Packs the file or folder `path` of a running container into a tar stream. `silence` is how long
/// the container may say nothing.
///
/// # Errors
/// Those of [`Container::copy_out`]; `Unsupported` when the image lacks a program.
pub async fn pack(container: &dyn Container, path: &str, silence: Duration) -> Result<ByteStream> {
    check_path(path)?;
    let (folder, name) = split(path);
    let options = ExecOptions::new(["sh", "-c", PACK, "sh", folder, name]);
    let session = container.exec(options).await;
    let session = session.map_err(|error| no_shell(error, Capability::CopyOut))?;
    let Session { stdout, stderr, control, .. } = session;
    let mut packing = Packing {
        stdout,
        words: Words::Reading(words(stderr).boxed()),
        control,
        end: TarEnd::default(),
        silence,
    };
    match packing.piece().await {
        None => {
            let code = exit(&*packing.control, silence).await?;
            Err(not_ready(code, &packing.words.all().await, Capability::CopyOut))
        }
        Some(first) => {
            let first = first?;
            packing.end.push(&first);
            let rest = stream::unfold(Some(packing), |packing| async move {
                let mut packing = packing?;
                match packing.piece().await {
                    Some(Ok(piece)) => {
                        packing.end.push(&piece);
                        Some((Ok(piece), Some(packing)))
                    }
                    Some(Err(error)) => Some((Err(error), None)),
                    None => packing.finish().await.err().map(|error| (Err(error), None)),
                }
            });
            Ok(stream::iter([Ok(first)]).chain(rest).boxed())
        }
    }
}

/// The folder to be in, and the name in it.
fn split(path: &str) -> (&str, &str) {
    let path = path.trim_end_matches('/');
    match path.rsplit_once('/') {
        Some((_, "." | "..")) => (path, "."),
        Some(("", name)) => ("/", name),
        Some((folder, name)) => (folder, name),
        None => ("/", "."),
    }
}

/// What the script that unpacks has said.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    ready: bool,
    tar: Option<i32>,
    count: Option<u64>,
}

impl Said {
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
    /// Why it could not go on.
    failure: Option<Error>,
}

/// Sends the content once the script is ready, for as long as it goes well there.
///
/// # Errors
/// The caller's, and `Timeout`.
async fn send(
    mut stdin: Box<dyn SessionInput>,
    mut content: ByteStream,
    mut said: watch::Receiver<Said>,
    silence: Duration,
) -> Result<Sent> {
    let (mut sent, mut owners) = (Sent { bytes: 0, failure: None }, TarOwners::default());
    match timeout(silence, said.wait_for(|said| said.ready)).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) => return Ok(sent),
        Err(_) => return Err(stands_still(silence)),
    }
    loop {
        let piece = tokio::select! {
            biased;
            // Or all that it had to say was said.
            _ = said.wait_for(|said| said.tar.is_some_and(|code| code != 0)) => break,
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
        match timeout(silence, stdin.write(piece)).await {
            Ok(Ok(())) => sent.bytes += length,
            Ok(Err(error)) => {
                sent.failure = Some(error);
                return Ok(sent);
            }
            Err(_) => return Err(stands_still(silence)),
        }
        if is_last {
            break;
        }
    }
    match timeout(silence, stdin.close()).await {
        Ok(closed) => sent.failure = closed.err(),
        Err(_) => return Err(stands_still(silence)),
    }
    Ok(sent)
}

/// Reads what the script says to its end.
async fn listen(mut stdout: ByteStream, report: watch::Sender<Said>) -> Result<Said> {
    let (mut said, mut open) = (Said::default(), Vec::new());
    while let Some(piece) = stdout.next().await.transpose()? {
        for byte in piece {
            match byte {
                b'\n' => said.line(&String::from_utf8_lossy(&std::mem::take(&mut open))),
                byte if open.len() < WORDS => open.push(byte),
                _ => {}
            }
        }
        report.send_replace(said);
    }
    Ok(said)
}

/// The beginning of what comes on standard error, which is read to its end.
async fn words(stderr: Option<ByteStream>) -> String {
    let mut words = Vec::new();
    if let Some(mut stderr) = stderr {
        while let Some(Ok(piece)) = stderr.next().await {
            let room = piece.len().min(WORDS - words.len());
            words.extend_from_slice(&piece[..room]);
        }
    }
    String::from_utf8_lossy(&words).trim().to_owned()
}

enum Words {
    Reading(BoxFuture<'static, String>),
    Read(String),
}

impl Words {
    async fn read(&mut self) {
        match self {
            Self::Reading(reading) => *self = Self::Read(reading.await),
            Self::Read(_) => std::future::pending().await,
        }
    }

    async fn all(&mut self) -> String {
        match self {
            Self::Reading(reading) => reading.await,
            Self::Read(words) => words.clone(),
        }
    }
}

/// A tar that packs.
struct Packing {
    stdout: ByteStream,
    words: Words,
    control: Arc<dyn SessionControl>,
    end: TarEnd,
    silence: Duration,
}

impl Packing {
    /// The next piece; the other output is read meanwhile.
    async fn piece(&mut self) -> Option<Result<Bytes>> {
        let Self { stdout, words, silence, .. } = self;
        let mut next = Pin::new(stdout);
        let piece = async {
            loop {
                tokio::select! {
                    piece = next.next() => return piece,
                    () = words.read() => {}
                }
            }
        };
        timeout(*silence, piece).await.unwrap_or_else(|_| Some(Err(stands_still(*silence))))
    }

    /// Whether it was all.
    async fn finish(&mut self) -> Result<()> {
        let code = exit(&*self.control, self.silence).await?;
        let words = if code == 0 { String::new() } else { self.words.all().await };
        all_packed(code, self.end.is_whole(), &words)
    }
}

/// Checks that a tar that ended with `code` has packed all, and that all of it came.
fn all_packed(code: i32, is_whole: bool, words: &str) -> Result<()> {
    if code != 0 {
        return Err(Error::internal(format!("tar has ended with {code}: {words}")));
    }
    if !is_whole {
        return Err(
            Error::new(ErrorKind::Lost).with_message("the archive has come without its end")
        );
    }
    Ok(())
}

async fn exit(control: &dyn SessionControl, silence: Duration) -> Result<i32> {
    match timeout(silence, control.wait()).await {
        Ok(exit) => Ok(exit?.code),
        Err(_) => Err(stands_still(silence)),
    }
}

fn stands_still(silence: Duration) -> Error {
    Error::new(ErrorKind::Timeout).with_message(format!("the copy has not moved for {silence:?}"))
}

fn no_shell(error: Error, capability: Capability) -> Error {
    if error.kind() == ErrorKind::InvalidArgument && error.field() == Some("command") {
        return Error::unsupported(capability)
            .with_message("the image has no `sh`, through which files are copied on this engine")
            .with_source(error);
    }
    error
}

/// Why a script has ended before it was ready.
fn not_ready(code: i32, words: &str, capability: Capability) -> Error {
    match code {
        NO_FOLDER => Error::invalid("path", "is not a folder"),
        NO_PATH => Error::new(ErrorKind::NotFound).with_field("path"),
        NO_PROGRAM => Error::unsupported(capability).with_message(
            "the image has no `tar`, or lacks `tee`, `wc` or `cat`: files are copied through them \
             on this engine",
        ),
        _ => Error::internal(format!("the copy has ended with {code}: {words}")),
    }
}

/// What tar's words about what it could not unpack mean.
fn refused(words: &str) -> Error {
    let text = words.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&["no space left on device", "quota exceeded"]) {
        Error::new(ErrorKind::ResourceExhausted).with_message(words)
    } else if says(&["permission denied", "operation not permitted", "read-only file system"]) {
        Error::new(ErrorKind::PermissionDenied).with_message(words)
    } else if says(&[
        "magic",
        "does not look like a tar",
        "short read",
        "unexpected eof",
        "checksum",
    ]) {
        Error::invalid("content", format!("is no whole tar stream: {words}"))
    } else {
        Error::internal(format!("tar has failed: {words}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An input that nobody reads.
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
        let (_report, said) = watch::channel(Said::default());
        let content = stream::iter([Ok(Bytes::from_static(b"x"))]).boxed();
        let silence = Duration::from_secs(30);
        let sent = timeout(silence * 2, send(Box::new(Unread), content, said, silence)).await;
        assert_eq!(sent.unwrap().err().map(|error| error.kind()), Some(ErrorKind::Timeout));
    }

    #[test]
    fn paths_are_split_at_their_last_part() {
        for (path, folder, name) in [
            ("/srv/out", "/srv", "out"),
            ("/srv/out/", "/srv", "out"),
            ("/srv", "/", "srv"),
            ("/", "/", "."),
            ("/a/..", "/a/..", "."),
        ] {
            assert_eq!(split(path), (folder, name), "{path}");
        }
    }

    #[test]
    fn the_script_is_understood() {
        let mut said = Said::default();
        for line in ["ready", "  10240", "tar 1"] {
            said.line(line);
        }
        assert_eq!((said.ready, said.tar, said.count), (true, Some(1), Some(10_240)));
    }

    #[test]
    fn what_was_sent_is_confirmed_or_lost() {
        let lost = |words: &'static str| Some((ErrorKind::Lost, words));
        for (tar, count, failed, wanted) in [
            (Some(0), Some(10_240), false, None),
            // An input may be closed by a process that has all of it.
            (Some(0), Some(10_240), true, None),
            (Some(0), Some(10_239), false, lost("10239 of 10240 bytes")),
            (Some(0), Some(0), true, lost("0 of 10240 bytes")),
            (Some(0), None, false, lost("how much")),
            (None, Some(4096), true, lost("4096 of 10240 bytes")),
            (None, Some(10_240), false, lost("whether all was unpacked")),
            (None, None, false, lost("how much")),
            (Some(1), Some(10_240), false, Some((ErrorKind::InvalidArgument, "short read"))),
            (Some(1), None, true, Some((ErrorKind::InvalidArgument, "short read"))),
        ] {
            let said = Said { ready: true, tar, count };
            let failure = failed.then(|| Error::internal("the input was closed"));
            let outcome = all_unpacked(said, Sent { bytes: 10_240, failure }, "tar: short read");
            let case = format!("tar {tar:?}, count {count:?}: {outcome:?}");
            assert_eq!(
                outcome.as_ref().err().map(Error::kind),
                wanted.map(|(kind, _)| kind),
                "{case}"
            );
            if let (Err(error), Some((kind, words))) = (outcome, wanted) {
                assert!(error.to_string().contains(words), "{case}");
                let has_source = std::error::Error::source(&error).is_some();
                assert_eq!(has_source, failed && kind == ErrorKind::Lost, "{case}");
            }
        }
    }

    #[test]
    fn an_archive_is_whole_or_lost() {
        for (code, is_whole, wanted) in [
            (0, true, None),
            (0, false, Some(ErrorKind::Lost)),
            (1, true, Some(ErrorKind::Internal)),
            (137, false, Some(ErrorKind::Internal)),
        ] {
            let outcome = all_packed(code, is_whole, "no such file");
            assert_eq!(outcome.as_ref().err().map(Error::kind), wanted, "{code} {is_whole}");
            if code != 0 {
                let words = outcome.unwrap_err().to_string();
                assert!(words.contains(&code.to_string()) && words.contains("no such file"));
            }
        }
    }

    #[test]
    fn refusals_mean_what_they_say() {
        // What busybox 1.35 and GNU tar 1.34 say.
        for (words, kind, field) in [
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
            let error = refused(words);
            assert_eq!((error.kind(), error.field()), (kind, field), "{words}");
        }
    }
}
