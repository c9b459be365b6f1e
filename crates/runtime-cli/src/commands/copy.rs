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
use super::killed_by;
use crate::cli::Cp;
use crate::pipes::{self, Sink};
use crate::signals::Signals;
use crate::{find, terminal};

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
                Ok(container.copy_in(path, content.boxed(), CopyInOptions::default()).await?)
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
    let mut stream = container.copy_out(path, CopyOutOptions::default()).await?;
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
    let stream = container.copy_out(path.trim_end_matches("/."), CopyOutOptions::default()).await?;
    archive::unpack(stream, placed(path, target)?).await
}

/// Where what is copied out goes to.
fn placed(path: &str, target: &Path) -> Result<Placed> {
    let contents = path.ends_with("/.");
    let is_folder = target.is_dir();
    let named_as_folder = target.as_os_str().to_string_lossy().ends_with('/');
    if !is_folder && named_as_folder && !contents {
        bail!("there is no folder {}", target.display());
    }
    Ok(match (contents, is_folder, Path::new(path).file_name()) {
        (true, ..) => Placed::Contents(target.to_owned()),
        // By the name that was asked for: the archive's could be that of any file of the folder.
        (false, true, Some(name)) => Placed::As(target.join(name)),
        (false, true, None) => Placed::Within(target.to_owned()),
        (false, false, _) => Placed::As(target.to_owned()),
    })
}

/// Copies in.
async fn send(container: &dyn Container, source: &str, target: &str) -> Result<()> {
    let contents = source.ends_with("/.") || source == ".";
    let from = PathBuf::from(source);
    let metadata = std::fs::symlink_metadata(&from).with_context(|| format!("{source:?}"))?;
    ensure!(target.starts_with('/'), "{target:?} is not an absolute path in the container");
    let to = target.trim_end_matches('/');
    let (folder, name) = match to.rsplit_once('/') {
        Some((folder, name)) => (if folder.is_empty() { "/" } else { folder }, name),
        None => ("/", ""),
    };
    let own_name = || {
        let absolute = std::path::absolute(&from)?;
        let name = absolute.file_name().context("the source has no name")?;
        Ok::<_, anyhow::Error>(name.to_owned())
    };
    let (folder, name) = match look(container, target).await? {
        Found::Folder if contents => (target, ".".into()),
        Found::Folder => (target, own_name()?),
        Found::File if metadata.is_dir() => bail!("{target} is a file, and {source} a folder"),
        Found::Nothing if target.ends_with('/') && !contents => {
            bail!("the container has no folder {target}")
        }
        Found::File | Found::Nothing => (folder, name.into()),
    };
    let content = archive::pack(from, PathBuf::from(name));
    Ok(container.copy_in(folder, content, CopyInOptions::default()).await?)
}

/// What is at a path of a container: the beginning of its archive says so.
async fn look(container: &dyn Container, path: &str) -> Result<Found> {
    if path.trim_end_matches('/').is_empty() {
        return Ok(Found::Folder);
    }
    match container.copy_out(path.trim_end_matches('/'), CopyOutOptions::default()).await {
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
            ("/", "there", Placed::Within(at("there"))),
            ("/srv/..", "there", Placed::Within(at("there"))),
        ] {
            assert_eq!(placed(path, &at(target)).unwrap(), wanted, "{path} {target}");
        }
        assert!(placed("/srv/tree", &at("new/")).is_err());
    }
}
