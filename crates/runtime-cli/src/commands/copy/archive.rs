//! Tar streams from and to local files, on a thread of their own.

use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use runtime_core::ByteStream;
use tar::{Archive, Builder, EntryType};
use tokio::sync::mpsc;

use super::{boxed, unreadable};

/// How many pieces wait for the other side.
const PIECES: usize = 8;

/// The size of a piece.
const PIECE: usize = 128 << 10;

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// A folder.
    Folder,
    /// Anything else.
    File,
    /// Nothing.
    Nothing,
}

/// Where what comes goes to.
#[derive(Debug, Clone)]
pub(super) enum Placed {
    /// Into this folder, by its own name.
    Within(PathBuf),
    /// Here, by this name.
    As(PathBuf),
    /// What is in the folder that comes, into this folder.
    Contents(PathBuf),
}

impl Placed {
    /// The place of an entry; the names in the archive begin with one part that all have.
    fn of(&self, name: &Path) -> Result<PathBuf> {
        let plain = |part: &Component<'_>| matches!(part, Component::Normal(_));
        let parts: Vec<_> = name.components().filter(|part| *part != Component::CurDir).collect();
        if parts.is_empty() || !parts.iter().all(plain) {
            bail!("the archive has an entry with the name {}", name.display());
        }
        let rest: PathBuf = parts[1..].iter().collect();
        Ok(match self {
            Self::Within(folder) => folder.join(parts[0]).join(rest),
            Self::As(path) if rest.as_os_str().is_empty() => path.clone(),
            Self::As(path) => path.join(rest),
            Self::Contents(folder) => folder.join(rest),
        })
    }

    /// The folder that nothing may be put outside of.
    fn bounds(&self) -> &Path {
        match self {
            Self::Within(path) | Self::As(path) | Self::Contents(path) => path,
        }
    }
}

/// Unpacks an archive. Modes are kept; owners are ours.
pub(super) async fn unpack(stream: ByteStream, placed: Placed) -> Result<()> {
    let (sender, receiver) = mpsc::channel(PIECES);
    let feed = async {
        let mut stream = stream;
        while let Some(bytes) = stream.next().await {
            let bytes = bytes.map_err(|error| io::Error::other(error.clone()));
            let failed = bytes.is_err();
            if sender.send(bytes).await.is_err() || failed {
                break;
            }
        }
        drop(sender);
    };
    let unpacking = tokio::task::spawn_blocking(move || {
        let mut archive = Archive::new(Pieces { receiver, open: Bytes::new() });
        let bounds = std::path::absolute(placed.bounds())?;
        let mut folders = Vec::new();
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = std::path::absolute(placed.of(&entry.path()?)?)?;
            within(&bounds, &path)?;
            if entry.header().entry_type() == EntryType::Directory {
                std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
                // A folder without write permission gets its mode when all is in it.
                folders.push((path, entry.header().mode()?));
                continue;
            }
            if let (EntryType::Link, Some(target)) =
                (entry.header().entry_type(), entry.link_name()?)
            {
                let target = std::path::absolute(placed.of(&target)?)?;
                within(&bounds, &target)?;
                std::fs::hard_link(&target, &path).with_context(|| path.display().to_string())?;
                continue;
            }
            entry.unpack(&path).with_context(|| path.display().to_string())?;
        }
        for (path, mode) in folders.into_iter().rev() {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode & 0o7777))?;
        }
        Ok::<_, anyhow::Error>(())
    });
    let ((), unpacked) = tokio::join!(feed, unpacking);
    unpacked?
}

/// Refuses a path that a link which came before leads elsewhere.
fn within(bounds: &Path, path: &Path) -> Result<()> {
    let mut folder = path.parent();
    while let Some(parent) = folder {
        if parent == bounds || !parent.starts_with(bounds) {
            return Ok(());
        }
        if std::fs::symlink_metadata(parent).is_ok_and(|metadata| metadata.is_symlink()) {
            bail!("the archive leads out of the target: {}", path.display());
        }
        folder = parent.parent();
    }
    Ok(())
}

/// What the first entry of an archive is.
pub(super) async fn kind(mut stream: ByteStream) -> Result<Found> {
    // The first block is the header, unless long names come first: those are few blocks more.
    let mut start = Vec::new();
    while start.len() < 64 << 10 {
        let Some(bytes) = stream.next().await else { break };
        start.extend_from_slice(&bytes?);
        let mut archive = Archive::new(&start[..]);
        if let Some(Ok(entry)) = archive.entries()?.next() {
            return Ok(match entry.header().entry_type() {
                EntryType::Directory => Found::Folder,
                _ => Found::File,
            });
        }
    }
    bail!("the engine's archive is no archive")
}

/// Packs a file or a folder under another name.
pub(super) fn pack(source: PathBuf, name: PathBuf) -> ByteStream {
    let (sender, receiver) = mpsc::channel(PIECES);
    std::thread::spawn(move || {
        let pack = || {
            let mut builder = Builder::new(Sender { sender: &sender, open: Vec::new() });
            builder.follow_symlinks(false);
            let metadata = std::fs::symlink_metadata(&source)?;
            if metadata.is_dir() {
                builder.append_dir_all(&name, &source)?;
            } else {
                builder.append_path_with_name(&source, &name)?;
            }
            builder.into_inner()?.flush()
        };
        if let Err(error) = pack() {
            // Nobody may wait for it.
            let _ = sender.blocking_send(Err(unreadable(error)));
        }
    });
    boxed(futures_util::stream::unfold(receiver, async |mut receiver| {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    }))
}

/// Reads pieces as they come.
struct Pieces {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    open: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.open.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.open = piece?,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.open.len());
        self.open.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// Sends what is written in pieces.
struct Sender<'a> {
    sender: &'a mpsc::Sender<runtime_core::Result<Bytes>>,
    open: Vec<u8>,
}

impl Write for Sender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.open.extend_from_slice(bytes);
        if self.open.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.open);
        if piece.is_empty() {
            return Ok(());
        }
        self.sender.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
