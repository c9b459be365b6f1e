//! `cp`.

mod archive;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures_util::StreamExt;
use runtime_core::{
    ByteStream, Container, CopyInOptions, CopyOutOptions, Error, ErrorKind, Runtime,
};

use self::archive::{Found, Placed};
use crate::cli::Cp;
use crate::exit_code::killed_by;
use crate::pipes::{self, Sink};
use crate::signals::Signals;
use crate::{find, terminal};

/// How many links are followed one after another, as Linux has it.
const LINKS: usize = 40;

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side<'a> {
    /// In a container.
    Container { name: &'a str, path: &'a str },
    /// Here.
    Local(&'a str),
    /// A tar stream on a standard stream.
    Stream,
}

impl<'a> Side<'a> {
    fn parse(text: &'a str) -> Self {
        match text.split_once(':') {
            _ if text == "-" => Self::Stream,
            // A local path with a colon begins with a dot or a slash, as with Docker.
            Some((name, path)) if !name.is_empty() && !name.starts_with(['.', '/']) => {
                Self::Container { name, path }
            }
            _ => Self::Local(text),
        }
    }
}

/// `runtime cp`.
pub(crate) async fn cp(runtime: Arc<dyn Runtime>, arguments: Cp) -> Result<u8> {
    let mut signals = Signals::listen()?;
    let work = async {
        match (Side::parse(&arguments.source), Side::parse(&arguments.target)) {
            (Side::Container { name, path }, target) => {
                let container = find::container(&*runtime, name).await?;
                match target {
                    Side::Local(to) => fetch(&*container, path, Path::new(to)).await,
                    Side::Stream => fetch_stream(&*container, path).await,
                    Side::Container { .. } => bail!("one side has to be here: use `-` and a pipe"),
                }
            }
            (Side::Local(from), Side::Container { name, path }) => {
                let container = find::container(&*runtime, name).await?;
                send(&*container, from, path).await
            }
            (Side::Stream, Side::Container { name, path }) => {
                ensure!(!terminal::on_stdin(), "a tar stream is expected on standard input");
                let container = find::container(&*runtime, name).await?;
                let content = futures_util::stream::unfold(pipes::stdin(), async |mut pieces| {
                    let piece = pieces.recv().await?;
                    Some((piece.map_err(unreadable), pieces))
                });
                let path = from_root(path)?;
                Ok(container.copy_in(&path, content.boxed(), CopyInOptions::default()).await?)
            }
            _ => bail!("neither side is in a container: write CONTAINER:PATH"),
        }
    };
    tokio::select! {
        done = work => done.map(|()| 0),
        signal = signals.end() => Ok(killed_by(signal.number())),
    }
}

fn unreadable(error: std::io::Error) -> Error {
    Error::new(ErrorKind::InvalidArgument)
        .with_field("content")
        .with_message("the source cannot be read")
        .with_source(error)
}

async fn fetch_stream(container: &dyn Container, path: &str) -> Result<()> {
    ensure!(!terminal::on_stdout(), "a tar stream is not for a terminal: use a pipe");
    let mut stream = container.copy_out(&from_root(path)?, CopyOutOptions::default()).await?;
    let sink = Sink::stdout();
    while let Some(bytes) = stream.next().await {
        if !sink.write(bytes?).await {
            break;
        }
    }
    Ok(sink.finish().await?)
}

/// Copies out. A target that is a folder takes the source by its name; any other is its new name.
async fn fetch(container: &dyn Container, path: &str, target: &Path) -> Result<()> {
    let asked = cleaned(&from_root(path)?);
    // A link is copied as one, unless what it leads to is asked for.
    let from = match wants_contents(path) || path.ends_with('/') {
        true => through_links(asked, async |at| look(container, at).await).await?.0,
        false => asked,
    };
    let stream = container.copy_out(&from, CopyOutOptions::default()).await?;
    let placed = placed(if from == "/" { "/" } else { path }, target)?;
    archive::unpack(stream, placed).await
}

/// Where what is copied out goes to.
fn placed(path: &str, target: &Path) -> Result<Placed> {
    let contents = wants_contents(path);
    let is_folder = target.is_dir();
    let named_as_folder = target.as_os_str().to_string_lossy().ends_with('/');
    if !is_folder && named_as_folder && !contents {
        bail!("there is no folder {}", target.display());
    }
    let path = cleaned(path);
    Ok(match (contents, is_folder, Path::new(&path).file_name()) {
        // The root has no name that its contents could stand under.
        (_, _, None) => Placed::Within(target.to_owned()),
        (true, ..) => Placed::Contents(target.to_owned()),
        // By the name that was asked for: the archive's could be that of any file of the folder.
        (false, true, Some(name)) => Placed::As(target.join(name)),
        (false, false, _) => Placed::As(target.to_owned()),
    })
}

/// Copies in.
async fn send(container: &dyn Container, source: &str, target: &str) -> Result<()> {
    let contents = wants_contents(source);
    let from = PathBuf::from(source);
    let metadata = std::fs::symlink_metadata(&from).with_context(|| format!("{source:?}"))?;
    let named_as_folder = target.ends_with('/') || wants_contents(target);
    let asked = cleaned(&from_root(target)?);
    let (to, found) = through_links(asked, async |at| look(container, at).await).await?;
    let (folder, name) = split(&to);
    let own_name = || {
        let absolute = std::path::absolute(&from)?;
        let name = absolute.file_name().context("the source has no name")?;
        Ok::<_, anyhow::Error>(name.to_owned())
    };
    let (folder, name) = match found {
        Found::Folder if contents => (&*to, ".".into()),
        Found::Folder => (&*to, own_name()?),
        Found::File if metadata.is_dir() => bail!("{target} is a file, and {source} a folder"),
        // Of a directory, the slash says no more than that.
        Found::Nothing if named_as_folder && !contents && !metadata.is_dir() => {
            bail!("the container has no folder {target}")
        }
        Found::File | Found::Nothing | Found::Link(_) => (folder, name.into()),
    };
    let (content, left_out) = archive::pack(from, PathBuf::from(name));
    container.copy_in(folder, content, CopyInOptions::default()).await?;
    left_out.check()
}

/// Whether what is in a folder is meant, as with Docker's command.
fn wants_contents(path: &str) -> bool {
    path == "." || path.ends_with("/.")
}

/// A path of a container; one without a slash at its beginning is taken from the root, as with
/// Docker's command.
fn from_root(path: &str) -> Result<String> {
    ensure!(!path.is_empty(), "a path in the container is missing after the colon");
    Ok(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
}

/// A path from the root, without dots and without slashes that say nothing. A `..` takes away the
/// part before it, link or not, as Docker's command has it.
fn cleaned(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The folder that a cleaned path is in, and its name there.
fn split(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some(halves) => halves,
        None => ("/", path),
    }
}

/// Where a path leads to when the links at its end are followed, and what is there.
async fn through_links(
    path: String,
    look: impl AsyncFn(&str) -> Result<Found>,
) -> Result<(String, Found)> {
    let mut at = path.clone();
    for _ in 0..=LINKS {
        match look(&at).await? {
            Found::Link(to) => at = linked(&at, &to),
            found => return Ok((at, found)),
        }
    }
    bail!("{path} leads through too many links")
}

/// Where a link at this path leads to.
fn linked(path: &str, to: &str) -> String {
    match to.starts_with('/') {
        true => cleaned(to),
        false => cleaned(&format!("{}/{to}", split(path).0)),
    }
}

/// What is at a cleaned path of a container: the beginning of its archive says so.
async fn look(container: &dyn Container, path: &str) -> Result<Found> {
    if path == "/" {
        return Ok(Found::Folder);
    }
    match container.copy_out(path, CopyOutOptions::default()).await {
        Ok(stream) => archive::kind(stream).await,
        Err(error) if error.kind() == ErrorKind::NotFound && error.field() == Some("path") => {
            Ok(Found::Nothing)
        }
        Err(error) => Err(error.into()),
    }
}

/// A stream of bytes.
fn boxed(
    stream: impl futures_util::Stream<Item = runtime_core::Result<Bytes>> + Send + 'static,
) -> ByteStream {
    stream.boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides() {
        for (text, side) in [
            ("-", Side::Stream),
            ("c:/a", Side::Container { name: "c", path: "/a" }),
            ("/a:b", Side::Local("/a:b")),
            ("./a:b", Side::Local("./a:b")),
            ("a", Side::Local("a")),
        ] {
            assert_eq!(Side::parse(text), side, "{text}");
        }
    }

    #[test]
    fn places() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("there")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink("there", at("link")).unwrap();
        for (path, target, wanted) in [
            ("/srv/tree", "there", Placed::As(at("there/tree"))),
            ("/srv/tree/", "there/", Placed::As(at("there/tree"))),
            ("/srv/tree", "link", Placed::As(at("link/tree"))),
            ("/srv/tree", "new", Placed::As(at("new"))),
            ("/srv/tree", "file", Placed::As(at("file"))),
            ("/srv/tree/.", "there", Placed::Contents(at("there"))),
            ("/srv/tree/.", "new", Placed::Contents(at("new"))),
            ("srv/tree", "there", Placed::As(at("there/tree"))),
            ("/srv/./x/../tree", "there", Placed::As(at("there/tree"))),
            ("/", "there", Placed::Within(at("there"))),
            ("/", "new", Placed::Within(at("new"))),
            ("/.", "there", Placed::Within(at("there"))),
            (".", "new", Placed::Within(at("new"))),
            ("/srv/..", "there", Placed::Within(at("there"))),
        ] {
            assert_eq!(placed(path, &at(target)).unwrap(), wanted, "{path} {target}");
        }
        assert!(placed("/srv/tree", &at("new/")).is_err());
    }

    #[test]
    fn paths_of_a_container() {
        for (path, clean) in [
            ("/", "/"),
            ("/.", "/"),
            ("//a//b/", "/a/b"),
            ("/a/./b/.", "/a/b"),
            ("/a/../b", "/b"),
            ("/../..", "/"),
            ("a/b", "/a/b"),
        ] {
            assert_eq!(cleaned(path), clean, "{path}");
        }
        assert_eq!(from_root("a/.").unwrap(), "/a/.");
        assert_eq!(from_root("/a").unwrap(), "/a");
        assert!(from_root("").is_err());
        assert_eq!((split("/a"), split("/a/b"), split("/")), (("/", "a"), ("/a", "b"), ("/", "")));
    }

    #[tokio::test]
    async fn links_are_followed_to_their_end() {
        let look = async |path: &str| {
            let link = |to: &str| Found::Link(to.to_owned());
            Ok(match path {
                "/srv" | "/usr/bin" => Found::Folder,
                "/bin" => link("usr/bin"),
                "/srv/a" => link("./b"),
                "/srv/b" => link("/srv/c"),
                "/srv/c" => Found::File,
                "/srv/none" => link("not/there"),
                "/srv/loop" => link("loop"),
                _ => Found::Nothing,
            })
        };
        for (path, end, found) in [
            ("/bin", "/usr/bin", Found::Folder),
            ("/srv/a", "/srv/c", Found::File),
            ("/srv/none", "/srv/not/there", Found::Nothing),
            ("/srv", "/srv", Found::Folder),
        ] {
            let led = through_links(path.to_owned(), look).await.unwrap();
            assert_eq!(led, (end.to_owned(), found), "{path}");
        }
        let error = through_links("/srv/loop".to_owned(), look).await.unwrap_err();
        assert!(error.to_string().contains("too many links"), "{error}");
    }

    #[test]
    fn links_lead_from_their_folder() {
        for (path, to, found) in [
            ("/bin", "usr/bin", "/usr/bin"),
            ("/var/run", "/run", "/run"),
            ("/srv/a/l", "../b/./file", "/srv/b/file"),
            ("/l", "../../x", "/x"),
        ] {
            assert_eq!(linked(path, to), found, "{path} -> {to}");
        }
    }
}
