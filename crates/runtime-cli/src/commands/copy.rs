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
use crate::{resolve, terminal};

/// Maximum number of links followed in one path, as in Linux.
const LINKS_MAX: usize = 40;

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side<'a> {
    /// A path in a container.
    Container { name: &'a str, path: &'a str },
    /// A local path.
    Local(&'a str),
    /// A tar stream on stdin or stdout.
    Stream,
}

impl<'a> Side<'a> {
    fn parse(text: &'a str) -> Self {
        match text.split_once(':') {
            _ if text == "-" => Self::Stream,
            // As in Docker's CLI, a local path with a colon starts with a dot or a slash.
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
                let container = resolve::container(&*runtime, name).await?;
                match target {
                    Side::Local(to) => fetch(&*container, path, Path::new(to)).await,
                    Side::Stream => fetch_stream(&*container, path).await,
                    Side::Container { .. } => bail!("one side has to be local: use `-` and a pipe"),
                }
            }
            (Side::Local(from), Side::Container { name, path }) => {
                let container = resolve::container(&*runtime, name).await?;
                send(&*container, from, path).await
            }
            (Side::Stream, Side::Container { name, path }) => {
                ensure!(!terminal::on_stdin(), "a tar stream is expected on standard input");
                let container = resolve::container(&*runtime, name).await?;
                let content = futures_util::stream::unfold(pipes::stdin(), async |mut pieces| {
                    let piece = pieces.recv().await?;
                    Some((piece.map_err(unreadable), pieces))
                });
                let path = from_root(path)?;
                Ok(container.copy_in(&path, content.boxed(), CopyInOptions::default()).await?)
            }
            _ => bail!("neither side is in a container: use CONTAINER:PATH"),
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
        .with_message("failed to read the source")
        .with_source(error)
}

async fn fetch_stream(container: &dyn Container, path: &str) -> Result<()> {
    ensure!(!terminal::on_stdout(), "failed to write a tar stream to a terminal: use a pipe");
    let mut stream = container.copy_out(&from_root(path)?, CopyOutOptions::default()).await?;
    let sink = Sink::stdout();
    while let Some(bytes) = stream.next().await {
        if !sink.write(bytes?).await {
            break;
        }
    }
    Ok(sink.finish().await?)
}

/// Copies out of the container. If `target` is a directory, the copy keeps its name, else it is
/// named `target`.
async fn fetch(container: &dyn Container, path: &str, target: &Path) -> Result<()> {
    let asked = cleaned(&from_root(path)?);
    // A link is copied as a link, unless the path requests the contents of its target.
    let from = match means_contents(path) || path.ends_with('/') {
        true => through_links(asked, async |at| inspect_path(container, at).await).await?.0,
        false => asked,
    };
    let stream = container.copy_out(&from, CopyOutOptions::default()).await?;
    let placed = placed(if from == "/" { "/" } else { path }, target)?;
    archive::unpack(stream, placed).await
}

/// Returns the destination of a copy.
fn placed(path: &str, target: &Path) -> Result<Placed> {
    let contents = means_contents(path);
    let is_folder = target.is_dir();
    let named_as_directory = target.as_os_str().to_string_lossy().ends_with('/');
    if !is_folder && named_as_directory && !contents {
        bail!("no such directory: {}", target.display());
    }
    let path = cleaned(path);
    Ok(match (contents, is_folder, Path::new(&path).file_name()) {
        // The root directory has no name for its copy.
        (_, _, None) => Placed::Within(target.to_owned()),
        (true, ..) => Placed::Contents(target.to_owned()),
        // By the requested name: the name in the archive could be that of any file in the
        // directory.
        (false, true, Some(name)) => Placed::As(target.join(name)),
        (false, false, _) => Placed::As(target.to_owned()),
    })
}

/// Copies into the container.
async fn send(container: &dyn Container, source: &str, target: &str) -> Result<()> {
    let contents = means_contents(source);
    let from = PathBuf::from(source);
    let metadata = std::fs::symlink_metadata(&from).with_context(|| format!("{source:?}"))?;
    let named_as_directory = target.ends_with('/') || means_contents(target);
    let asked = cleaned(&from_root(target)?);
    let (to, found) = through_links(asked, async |at| inspect_path(container, at).await).await?;
    let (directory, name) = split(&to);
    let own_name = || {
        let absolute = std::path::absolute(&from)?;
        let name = absolute.file_name().context("the source has no name")?;
        Ok::<_, anyhow::Error>(name.to_owned())
    };
    let (directory, name) = match found {
        Found::Directory if contents => (&*to, ".".into()),
        Found::Directory => (&*to, own_name()?),
        Found::File if metadata.is_dir() => bail!("{target} is a file, and {source} a directory"),
        // A directory is created, with or without a trailing slash.
        Found::Nothing if named_as_directory && !contents && !metadata.is_dir() => {
            bail!("no such directory in the container: {target}")
        }
        Found::File | Found::Nothing | Found::Link(_) => (directory, name.into()),
    };
    let (content, left_out) = archive::pack(from, PathBuf::from(name));
    container.copy_in(directory, content, CopyInOptions::default()).await?;
    left_out.check()
}

/// Returns true if the path means the contents of a directory, as in Docker's CLI.
fn means_contents(path: &str) -> bool {
    path == "." || path.ends_with("/.")
}

/// Returns the absolute form of a container path. As in Docker's CLI, a relative path starts at the
/// root.
fn from_root(path: &str) -> Result<String> {
    ensure!(!path.is_empty(), "a path in the container is missing after the colon");
    Ok(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
}

/// Returns an absolute path without dots and redundant slashes. As in Docker's CLI, `..` removes
/// the component before it, link or not.
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

/// Splits a cleaned path into directory and name.
fn split(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some(halves) => halves,
        None => ("/", path),
    }
}

/// Follows the links at the end of a path and returns the final path and its type.
async fn through_links(
    path: String,
    look: impl AsyncFn(&str) -> Result<Found>,
) -> Result<(String, Found)> {
    let mut at = path.clone();
    for _ in 0..=LINKS_MAX {
        match look(&at).await? {
            Found::Link(to) => at = linked(&at, &to),
            found => return Ok((at, found)),
        }
    }
    bail!("{path} leads through too many links")
}

/// Returns the target of a link at `path`.
fn linked(path: &str, to: &str) -> String {
    match to.starts_with('/') {
        true => cleaned(to),
        false => cleaned(&format!("{}/{to}", split(path).0)),
    }
}

/// Returns the type of a cleaned container path, read from the start of its archive.
async fn inspect_path(container: &dyn Container, path: &str) -> Result<Found> {
    if path == "/" {
        return Ok(Found::Directory);
    }
    match container.copy_out(path, CopyOutOptions::default()).await {
        Ok(stream) => archive::kind(stream).await,
        Err(error) if error.kind() == ErrorKind::NotFound && error.field() == Some("path") => {
            Ok(Found::Nothing)
        }
        Err(error) => Err(error.into()),
    }
}

/// Boxes a stream.
fn boxed(
    stream: impl futures_util::Stream<Item = runtime_core::Result<Bytes>> + Send + 'static,
) -> ByteStream {
    stream.boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn side_is_parsed_as_in_docker() {
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
    fn destination_depends_on_path_and_target() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
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
    fn container_path_is_cleaned() {
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
    async fn links_are_followed_to_final_target() {
        let look = async |path: &str| {
            let link = |to: &str| Found::Link(to.to_owned());
            Ok(match path {
                "/srv" | "/usr/bin" => Found::Directory,
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
            ("/bin", "/usr/bin", Found::Directory),
            ("/srv/a", "/srv/c", Found::File),
            ("/srv/none", "/srv/not/there", Found::Nothing),
            ("/srv", "/srv", Found::Directory),
        ] {
            let led = through_links(path.to_owned(), look).await.unwrap();
            assert_eq!(led, (end.to_owned(), found), "{path}");
        }
        let error = through_links("/srv/loop".to_owned(), look).await.unwrap_err();
        assert!(error.to_string().contains("too many links"), "{error}");
    }

    #[test]
    fn relative_link_starts_at_its_directory() {
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
