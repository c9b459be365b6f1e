//! Tar streams from and to local files, on a thread of their own.

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

/// How many pieces wait for the other side.
const PIECES: usize = 8;

/// The size of a piece.
const PIECE: usize = 128 << 10;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// A folder.
    Folder,
    /// A symbolic link to this.
    Link(String),
    /// Anything else.
    File,
    /// Nothing.
    Nothing,
}

/// Where what comes goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Placed {
    /// Into this folder, all of a root: its entries have no part of their names in common.
    Within(PathBuf),
    /// Here, by this name.
    As(PathBuf),
    /// What is in the folder that comes, into this folder.
    Contents(PathBuf),
}

/// Unpacks an archive. Modes are kept; owners are ours. Nothing outside of the place is made,
/// overwritten or given a mode, whatever is in the archive: some engines have it from the
/// container's own tar.
pub(super) async fn unpack(stream: ByteStream, placed: Placed) -> Result<()> {
    let (sender, receiver) = mpsc::channel(PIECES);
    let unpacking = tokio::task::spawn_blocking(move || {
        put_all(Pieces { receiver, open: Bytes::new() }, &placed)
    });
    let (fed, unpacked) = tokio::join!(feed(stream, sender), unpacking);
    unpacked??;
    // How the container's tar has ended comes last.
    let Some(mut rest) = fed? else { return Ok(()) };
    while let Some(bytes) = rest.next().await {
        bytes?;
    }
    Ok(())
}

/// Feeds a stream to whoever unpacks it, as far as that is wanted: nobody reads on after the
/// archive's end. Gives what is left then.
///
/// # Errors
/// The stream's own, which the other side is told as well.
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

/// Puts the entries of an archive where they belong.
fn put_all(content: impl Read, placed: &Placed) -> Result<()> {
    let mut archive = Archive::new(content);
    let mut opened: Option<Target> = None;
    for entry in archive.entries()? {
        let mut entry = entry?;
        // It is about the other entries, and its name is no place for anything.
        if entry.header().entry_type().is_pax_global_extensions() {
            continue;
        }
        let target = match &mut opened {
            Some(target) => target,
            None => opened.insert(Target::open(placed, is_folder(&entry))?),
        };
        target.put(&mut entry)?;
    }
    opened.map_or(Ok(()), Target::finish)
}

/// Whether an entry is a folder. The old format says so with a slash at the end of the name; what
/// unpacks an entry takes it for one as well.
fn is_folder<R: Read>(entry: &Entry<'_, R>) -> bool {
    let kind = entry.header().entry_type();
    let is_link = kind.is_hard_link() || kind.is_symlink();
    let is_old = entry.header().as_ustar().is_none();
    kind.is_dir() || (!is_link && is_old && entry.path_bytes().ends_with(b"/"))
}

/// What comes in place of the first part of the names in an archive, which all have in common.
#[derive(Debug)]
enum Top {
    /// They have none: it is all of a root, which engines call `/` or `.`.
    Whole,
    /// This name.
    Named(OsString),
    /// Nothing: the root stands for it.
    Root,
}

/// Where an archive is unpacked.
///
/// What is in the archive is the container's word, and a link in it leads wherever the container
/// likes. So links are followed only on the way to the root, which is the user's; a link below it
/// can be made and replaced, but nothing goes through it. One that the user has there is not told
/// apart, because it can be from an earlier copy.
#[derive(Debug)]
struct Target {
    /// A folder, with no link on the way to it.
    root: PathBuf,
    top: Top,
    /// Whether the root was made for the archive.
    made: bool,
    /// The modes of the folders, by their paths below the root.
    modes: BTreeMap<PathBuf, u32>,
    left_out: LeftOut,
}

impl Target {
    /// Finds the root, and makes it where it lacks and the first entry is a folder.
    fn open(placed: &Placed, first_is_folder: bool) -> Result<Self> {
        let mut made = false;
        let (root, top) = match placed {
            Placed::As(path) => {
                let path = std::path::absolute(path)?;
                let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
                    bail!("{} has no name that the copy could have", path.display());
                };
                if first_is_folder {
                    make_folder(folder)?;
                }
                (folder.to_owned(), Top::Named(name.to_owned()))
            }
            Placed::Contents(_) if !first_is_folder => return Err(no_folder()),
            Placed::Contents(folder) | Placed::Within(folder) => {
                made = !folder.is_dir();
                make_folder(folder)?;
                let whole = matches!(placed, Placed::Within(_));
                (folder.clone(), if whole { Top::Whole } else { Top::Root })
            }
        };
        let real = std::fs::canonicalize(&root).with_context(|| root.display().to_string())?;
        let (modes, left_out) = (BTreeMap::new(), LeftOut::default());
        Ok(Self { root: real, top, made, modes, left_out })
    }

    /// Where a name in the archive belongs below the root.
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

    /// The path of something below the root. It is refused when a link is there or on the way.
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

    /// The path of something that is no folder. What is there now can be a link.
    fn place(&self, relative: &Path) -> Result<PathBuf> {
        let (Some(folder), Some(name)) = (relative.parent(), relative.file_name()) else {
            return Err(no_folder());
        };
        Ok(self.free_of_links(folder)?.join(name))
    }

    /// Puts an entry in its place.
    fn put<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<()> {
        let relative = self.relative(&entry.path()?)?;
        if is_folder(entry) {
            return self.put_folder(relative, entry.header().mode()?);
        }
        let path = self.place(&relative)?;
        if entry.header().entry_type() == EntryType::Link {
            let Some(name) = entry.link_name()? else {
                return Err(refused("it has a hard link to nothing"));
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
            // It would become an empty file.
            self.left_out.add(&path, kind);
            return Ok(());
        }
        make_room(&path)?;
        entry.unpack(&path).map(drop).with_context(|| path.display().to_string())
    }

    /// Makes a folder, unless it is there.
    fn put_folder(&mut self, relative: PathBuf, mode: u32) -> Result<()> {
        make_folder(&self.free_of_links(&relative)?)?;
        // A root that was there is the user's, and keeps its mode, as with Docker's command.
        if self.made || !relative.as_os_str().is_empty() {
            self.modes.insert(relative, mode);
        }
        Ok(())
    }

    /// Gives the folders their modes when all is in them: one can be without write permission. What
    /// is in a folder comes before the folder itself.
    fn finish(self) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        for (relative, mode) in self.modes.iter().rev() {
            let path = self.free_of_links(relative)?;
            let permissions = std::fs::Permissions::from_mode(mode & 0o7777);
            std::fs::set_permissions(&path, permissions)
                .with_context(|| path.display().to_string())?;
        }
        self.left_out.check()
    }
}

/// Makes a folder and those that it is in, where they lack.
fn make_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| path.display().to_string())
}

/// Takes away what is in the place of something that is no folder: a link there would be followed,
/// and a file could have other names. A folder stays, and is an error.
fn make_room(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}

/// Makes a hard link. One to a link is another name of that link, which is not followed.
fn link(target: &Path, path: &Path) -> Result<()> {
    // What is in its place goes only when there is something to put there.
    std::fs::symlink_metadata(target).with_context(|| target.display().to_string())?;
    if target == path {
        return Err(refused(format!("it has a hard link to itself at {}", path.display())));
    }
    make_room(path)?;
    std::fs::hard_link(target, path).with_context(|| path.display().to_string())
}

/// What is wrong with an archive that no honest copy gives.
fn refused(what: impl std::fmt::Display) -> anyhow::Error {
    Error::internal(format!("the archive is refused: {what}")).during(Operation::CopyOut).into()
}

/// The contents were wanted of something that has none.
fn no_folder() -> anyhow::Error {
    Error::invalid("source", "is no folder, and has no contents").during(Operation::CopyOut).into()
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
                EntryType::Symlink => Found::Link(link_of(&entry)?),
                _ => Found::File,
            });
        }
    }
    bail!("the engine's archive is no archive")
}

/// Where a link leads to, in words that an engine takes as a path.
fn link_of<R: Read>(entry: &Entry<'_, R>) -> Result<String> {
    let to = entry.link_name_bytes().context("the engine's archive has a link to nothing")?;
    String::from_utf8(to.into_owned()).context("a link in the container leads to what is no text")
}

/// What was left out of a copy because it cannot be copied.
#[derive(Debug, Clone, Default)]
pub(super) struct LeftOut(Arc<Mutex<Vec<String>>>);

impl LeftOut {
    fn add(&self, path: &Path, what: &str) {
        let text = format!("{} ({what})", path.display());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    /// # Errors
    /// Names what was left out, if anything was.
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

/// Packs a directory and what is in it. A socket cannot be in an archive, and is left out.
fn pack_tree<W: Write>(
    builder: &mut Builder<W>,
    source: &Path,
    name: &Path,
    left_out: &LeftOut,
) -> io::Result<()> {
    let mut open = vec![(source.to_owned(), name.to_owned())];
    while let Some((path, name)) = open.pop() {
        let metadata = std::fs::symlink_metadata(&path)?;
        let kind = metadata.file_type();
        if kind.is_socket() {
            left_out.add(&path, "a socket");
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

/// Packs a FIFO or a device. The tar crate would pack it under the path that it has here.
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

/// Packs a file or a folder under another name.
pub(super) fn pack(source: PathBuf, name: PathBuf) -> (ByteStream, LeftOut) {
    let (sender, receiver) = mpsc::channel(PIECES);
    let left_out = LeftOut::default();
    let found = left_out.clone();
    std::thread::spawn(move || {
        let pack = || {
            let mut builder = Builder::new(Sender { sender: &sender, open: Vec::new() });
            builder.follow_symlinks(false);
            // The tar of busybox leaves out a file that is packed with its holes.
            builder.sparse(false);
            pack_tree(&mut builder, &source, &name, &found)?;
            builder.into_inner()?.flush()
        };
        if let Err(error) = pack() {
            // Nobody may wait for it.
            let _ = sender.blocking_send(Err(unreadable(error)));
        }
    });
    let content = boxed(futures_util::stream::unfold(receiver, async |mut receiver| {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    }));
    (content, left_out)
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

#[cfg(test)]
mod tests;
