//! Tar streams to and from local files, on a thread of their own.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use runtime_core::{ByteStream, Error, Operation};
use tar::{Archive, Builder, Entry, EntryType, Header};
use tokio::sync::mpsc;

use super::{boxed, unreadable};

/// Number of buffered chunks.
const CHANNEL_CAPACITY: usize = 8;

/// Chunk size in bytes.
const CHUNK_SIZE: usize = 128 << 10;

/// Type of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// A directory.
    Directory,
    /// A symbolic link to this target.
    Link(String),
    /// Any other file.
    File,
    /// A missing path.
    Nothing,
}

/// Destination of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Placed {
    /// All entries of a root go into this directory: they have no common first component.
    Within(PathBuf),
    /// The copy gets this path.
    As(PathBuf),
    /// The contents of the archived directory go into this directory.
    Contents(PathBuf),
}

/// Unpacks an archive. Modes are kept; the owner is the current user. Nothing outside of the
/// destination is created, overwritten or given a mode, whatever the archive contains: with some
/// engines the container's own tar writes it.
pub(super) async fn unpack(stream: ByteStream, placed: Placed) -> Result<()> {
    let (sender, receiver) = mpsc::channel(CHANNEL_CAPACITY);
    let unpacking = tokio::task::spawn_blocking(move || {
        unpack_entries(ChunkReader { receiver, open: Bytes::new() }, &placed)
    });
    let (fed, unpacked) = tokio::join!(feed(stream, sender), unpacking);
    unpacked??;
    // The result of the container's tar arrives at the end of the stream.
    let Some(mut rest) = fed? else { return Ok(()) };
    while let Some(bytes) = rest.next().await {
        bytes?;
    }
    Ok(())
}

/// Feeds a stream to the unpacking thread until that thread stops reading at the end of the
/// archive. Returns the rest of the stream.
///
/// # Errors
/// The stream's own error, which the unpacking thread receives as well.
async fn feed(
    mut stream: ByteStream,
    sender: mpsc::Sender<io::Result<Bytes>>,
) -> Result<Option<ByteStream>> {
    while let Some(bytes) = stream.next().await {
        let failure = bytes.as_ref().err().cloned();
        let sent = sender.send(bytes.map_err(io::Error::other)).await;
        if let Some(failure) = failure {
            return Err(failure.into());
        }
        if sent.is_err() {
            return Ok(Some(stream));
        }
    }
    Ok(None)
}

/// Unpacks all entries of an archive.
fn unpack_entries(content: impl Read, placed: &Placed) -> Result<()> {
    let mut archive = Archive::new(content);
    let mut opened: Option<Target> = None;
    for entry in archive.entries()? {
        let mut entry = entry?;
        // A global header describes the other entries and has no path.
        if entry.header().entry_type().is_pax_global_extensions() {
            continue;
        }
        let target = match &mut opened {
            Some(target) => target,
            None => opened.insert(Target::open(placed, is_directory(&entry))?),
        };
        target.put(&mut entry)?;
    }
    opened.map_or(Ok(()), Target::finish)
}

/// Returns true if an entry is a directory. In the old format a trailing slash marks directories,
/// which the tar crate honours as well.
fn is_directory<R: Read>(entry: &Entry<'_, R>) -> bool {
    let kind = entry.header().entry_type();
    let is_link = kind.is_hard_link() || kind.is_symlink();
    let is_old = entry.header().as_ustar().is_none();
    kind.is_dir() || (!is_link && is_old && entry.path_bytes().ends_with(b"/"))
}

/// Replacement of the first component that all names of an archive have in common.
#[derive(Debug)]
enum Top {
    /// The names have no common component: the archive holds a root, called `/` or `.` by engines.
    Whole,
    /// Replaces the component with this name.
    Named(OsString),
    /// Removes the component: its place is the root itself.
    Root,
}

/// Directory into which an archive is unpacked.
///
/// The contents of an archive are controlled by the container, and its links can point anywhere.
/// Links are therefore followed only on the path of the root, which the user chose; a link below
/// the root can be created and replaced, but is never followed. Links that the user made there are
/// not followed either, because they cannot be distinguished from those of an earlier copy.
#[derive(Debug)]
struct Target {
    /// A directory whose path contains no link.
    root: PathBuf,
    top: Top,
    /// Set if the root was created for the archive.
    made: bool,
    /// Modes of the directories by path below the root.
    modes: BTreeMap<PathBuf, u32>,
    skipped: Skipped,
}

impl Target {
    /// Opens the root, and creates it if it is missing and the first entry is a directory.
    fn open(placed: &Placed, first_is_directory: bool) -> Result<Self> {
        let mut made = false;
        let (root, top) = match placed {
            Placed::As(path) => {
                let path = std::path::absolute(path)?;
                let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
                    bail!("{} has no name for the copy", path.display());
                };
                if first_is_directory {
                    make_directory(directory)?;
                }
                (directory.to_owned(), Top::Named(name.to_owned()))
            }
            Placed::Contents(_) if !first_is_directory => return Err(not_a_directory()),
            Placed::Contents(directory) | Placed::Within(directory) => {
                made = !directory.is_dir();
                make_directory(directory)?;
                let whole = matches!(placed, Placed::Within(_));
                (directory.clone(), if whole { Top::Whole } else { Top::Root })
            }
        };
        let real = std::fs::canonicalize(&root).with_context(|| root.display().to_string())?;
        let (modes, skipped) = (BTreeMap::new(), Skipped::default());
        Ok(Self { root: real, top, made, modes, skipped })
    }

    /// Maps a name in the archive to a path below the root.
    fn relative(&self, name: &Path) -> Result<PathBuf> {
        let plain = |part: &Component<'_>| matches!(part, Component::Normal(_));
        let whole = matches!(self.top, Top::Whole);
        let says_nothing = |part: &Component<'_>| match part {
            Component::CurDir => true,
            Component::RootDir => whole,
            _ => false,
        };
        let parts: Vec<_> = name.components().filter(|part| !says_nothing(part)).collect();
        if (parts.is_empty() && !whole) || !parts.iter().all(plain) {
            return Err(refused(format!("it has an entry with the name {}", name.display())));
        }
        let top: Option<&OsStr> = match &self.top {
            Top::Named(name) => Some(name.as_os_str()),
            Top::Whole | Top::Root => None,
        };
        let rest = parts[usize::from(!whole)..].iter().map(|part| part.as_os_str());
        Ok(top.into_iter().chain(rest).collect())
    }

    /// Returns the path of an entry below the root, or an error if a link is there or on the way.
    fn free_of_links(&self, relative: &Path) -> Result<PathBuf> {
        let mut path = self.root.clone();
        for part in relative.components() {
            path.push(part);
            if std::fs::symlink_metadata(&path).is_ok_and(|there| there.is_symlink()) {
                return Err(refused(format!("it leads through the link {}", path.display())));
            }
        }
        Ok(path)
    }

    /// Returns the path of an entry that is not a directory. A link at that path is allowed.
    fn place(&self, relative: &Path) -> Result<PathBuf> {
        let (Some(directory), Some(name)) = (relative.parent(), relative.file_name()) else {
            return Err(not_a_directory());
        };
        Ok(self.free_of_links(directory)?.join(name))
    }

    /// Unpacks an entry.
    fn put<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<()> {
        let relative = self.relative(&entry.path()?)?;
        if is_directory(entry) {
            return self.put_directory(relative, entry.header().mode()?);
        }
        let path = self.place(&relative)?;
        if entry.header().entry_type() == EntryType::Link {
            let Some(name) = entry.link_name()? else {
                return Err(refused("it has a hard link without a target"));
            };
            let target = self.place(&self.relative(&name)?)?;
            return link(&target, &path);
        }
        let kind = match entry.header().entry_type() {
            EntryType::Char | EntryType::Block => Some("a device"),
            EntryType::Fifo => Some("a FIFO"),
            _ => None,
        };
        if let Some(kind) = kind {
            // Unpacking would create an empty file.
            self.skipped.add(&path, kind);
            return Ok(());
        }
        make_room(&path)?;
        entry.unpack(&path).map(drop).with_context(|| path.display().to_string())
    }

    /// Creates a directory if it is missing.
    fn put_directory(&mut self, relative: PathBuf, mode: u32) -> Result<()> {
        make_directory(&self.free_of_links(&relative)?)?;
        // As in Docker's CLI, a root that existed before keeps its mode.
        if self.made || !relative.as_os_str().is_empty() {
            self.modes.insert(relative, mode);
        }
        Ok(())
    }

    /// Sets the modes of the directories after everything is unpacked, because a directory can lack
    /// write permission. Contents are handled before their directory.
    fn finish(self) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        for (relative, mode) in self.modes.iter().rev() {
            let path = self.free_of_links(relative)?;
            let permissions = std::fs::Permissions::from_mode(mode & 0o7777);
            std::fs::set_permissions(&path, permissions)
                .with_context(|| path.display().to_string())?;
        }
        self.skipped.check()
    }
}

/// Creates a directory and its missing parents.
fn make_directory(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| path.display().to_string())
}

/// Removes a file in the place of a new file, because a link there would be followed and a file
/// could have other names. A directory is not removed, and is an error.
fn make_room(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}

/// Creates a hard link. A hard link to a symbolic link is another name of that link, which is not
/// followed.
fn link(target: &Path, path: &Path) -> Result<()> {
    // The old file is removed only if the target exists.
    std::fs::symlink_metadata(target).with_context(|| target.display().to_string())?;
    if target == path {
        return Err(refused(format!("it has a hard link to itself at {}", path.display())));
    }
    make_room(path)?;
    std::fs::hard_link(target, path).with_context(|| path.display().to_string())
}

/// Returns the error for an archive that no genuine copy produces.
fn refused(what: impl std::fmt::Display) -> anyhow::Error {
    Error::internal(format!("the archive is refused: {what}")).during(Operation::CopyOut).into()
}

/// Returns the error for the contents of a file that is not a directory.
fn not_a_directory() -> anyhow::Error {
    Error::invalid("source", "is not a directory, and has no contents")
        .during(Operation::CopyOut)
        .into()
}

/// Returns the type of the first entry of an archive.
pub(super) async fn kind(mut stream: ByteStream) -> Result<Found> {
    // The first block is the header, unless a few blocks with long names precede it.
    let mut start = Vec::new();
    while start.len() < 64 << 10 {
        let Some(bytes) = stream.next().await else { break };
        start.extend_from_slice(&bytes?);
        let mut archive = Archive::new(&start[..]);
        if let Some(Ok(entry)) = archive.entries()?.next() {
            return Ok(match entry.header().entry_type() {
                EntryType::Directory => Found::Directory,
                EntryType::Symlink => Found::Link(link_of(&entry)?),
                _ => Found::File,
            });
        }
    }
    bail!("the engine returned an invalid archive")
}

/// Returns the target of a link as a path for the engine.
fn link_of<R: Read>(entry: &Entry<'_, R>) -> Result<String> {
    let to = entry.link_name_bytes().context("the engine's archive has a link without a target")?;
    String::from_utf8(to.into_owned()).context("the target of a link in the container is not UTF-8")
}

/// Files that a copy skipped because an archive cannot hold them.
#[derive(Debug, Clone, Default)]
pub(super) struct Skipped(Arc<Mutex<Vec<String>>>);

impl Skipped {
    fn add(&self, path: &Path, what: &str) {
        let text = format!("{} ({what})", path.display());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    /// # Errors
    /// Names the skipped files, if there are any.
    pub(super) fn check(&self) -> Result<()> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &all[..] {
            [] => Ok(()),
            [one] => bail!("failed to copy {one}; all else was copied"),
            [one, rest @ ..] => {
                bail!("failed to copy {one} and {} more; all else was copied", rest.len())
            }
        }
    }
}

/// Packs a directory and its contents. Sockets cannot be archived and are skipped.
fn pack_tree<W: Write>(
    builder: &mut Builder<W>,
    source: &Path,
    name: &Path,
    skipped: &Skipped,
) -> io::Result<()> {
    let mut open = vec![(source.to_owned(), name.to_owned())];
    while let Some((path, name)) = open.pop() {
        let metadata = std::fs::symlink_metadata(&path)?;
        let kind = metadata.file_type();
        if kind.is_socket() {
            skipped.add(&path, "a socket");
        } else if kind.is_fifo() || kind.is_char_device() || kind.is_block_device() {
            append_special(builder, &name, &metadata)?;
        } else if kind.is_dir() {
            builder.append_dir(&name, &path)?;
            for entry in std::fs::read_dir(&path)? {
                let entry = entry?;
                open.push((entry.path(), name.join(entry.file_name())));
            }
        } else {
            builder.append_path_with_name(&path, &name)?;
        }
    }
    Ok(())
}

/// Packs a FIFO or a device. The tar crate would use its local path as the name.
fn append_special<W: Write>(
    builder: &mut Builder<W>,
    name: &Path,
    metadata: &Metadata,
) -> io::Result<()> {
    let kind = metadata.file_type();
    let mut header = Header::new_gnu();
    header.set_metadata(metadata);
    header.set_size(0);
    header.set_entry_type(match () {
        () if kind.is_fifo() => EntryType::Fifo,
        () if kind.is_char_device() => EntryType::Char,
        () => EntryType::Block,
    });
    header.set_device_major(rustix::fs::major(metadata.rdev()))?;
    header.set_device_minor(rustix::fs::minor(metadata.rdev()))?;
    builder.append_data(&mut header, name, io::empty())
}

/// Packs a file or a directory under another name.
pub(super) fn pack(source: PathBuf, name: PathBuf) -> (ByteStream, Skipped) {
    let (sender, receiver) = mpsc::channel(CHANNEL_CAPACITY);
    let skipped = Skipped::default();
    let found = skipped.clone();
    std::thread::spawn(move || {
        let pack = || {
            let mut builder = Builder::new(Sender { sender: &sender, open: Vec::new() });
            builder.follow_symlinks(false);
            // busybox's tar skips sparse files.
            builder.sparse(false);
            pack_tree(&mut builder, &source, &name, &found)?;
            builder.into_inner()?.flush()
        };
        if let Err(error) = pack() {
            // The receiver may be gone.
            let _ = sender.blocking_send(Err(unreadable(error)));
        }
    });
    let content = boxed(futures_util::stream::unfold(receiver, async |mut receiver| {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    }));
    (content, skipped)
}

/// Reader over chunks of a stream.
struct ChunkReader {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    open: Bytes,
}

impl Read for ChunkReader {
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

/// Writer that sends its input in chunks.
struct Sender<'a> {
    sender: &'a mpsc::Sender<runtime_core::Result<Bytes>>,
    open: Vec<u8>,
}

impl Write for Sender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.open.extend_from_slice(bytes);
        if self.open.len() >= CHUNK_SIZE {
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

#[cfg(test)]
mod tests;
