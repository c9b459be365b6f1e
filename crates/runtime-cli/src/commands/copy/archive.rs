//! Tar streams from and to local files, on a thread of their own.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use runtime_core::{ByteStream, Error, Operation};
use tar::{Archive, Builder, Entry, EntryType};
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Placed {
    /// Into this folder, by the name that it has in the archive.
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
        put_all(Pieces { receiver, open: Bytes::new() }, &placed)
    });
    let ((), unpacked) = tokio::join!(feed, unpacking);
    unpacked?
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
    /// That part.
    Own,
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
}

impl Target {
    /// Finds the root, and makes it where it lacks and the first entry is a folder.
    fn open(placed: &Placed, first_is_folder: bool) -> Result<Self> {
        let mut made = false;
        let (root, top) = match placed {
            Placed::Within(folder) => (folder.clone(), Top::Own),
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
            Placed::Contents(folder) => {
                made = !folder.is_dir();
                make_folder(folder)?;
                (folder.clone(), Top::Root)
            }
        };
        let real = std::fs::canonicalize(&root).with_context(|| root.display().to_string())?;
        Ok(Self { root: real, top, made, modes: BTreeMap::new() })
    }

    /// Where a name in the archive belongs below the root.
    fn relative(&self, name: &Path) -> Result<PathBuf> {
        let plain = |part: &Component<'_>| matches!(part, Component::Normal(_));
        let parts: Vec<_> = name.components().filter(|part| *part != Component::CurDir).collect();
        if parts.is_empty() || !parts.iter().all(plain) {
            return Err(refused(format!("it has an entry with the name {}", name.display())));
        }
        let top: Option<&OsStr> = match &self.top {
            Top::Own => Some(parts[0].as_os_str()),
            Top::Named(name) => Some(name.as_os_str()),
            Top::Root => None,
        };
        let rest = parts[1..].iter().map(|part| part.as_os_str());
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
        Ok(())
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use runtime_core::ErrorKind;
    use tar::Header;
    use tempfile::TempDir;

    use super::*;

    /// An entry with whatever name and link.
    fn entry(kind: EntryType, name: &str, link: &str, mode: u32, content: &str) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        // The setters of the header refuse some of what has to be refused here.
        let fields = header.as_old_mut();
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(content.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn folder(name: &str, mode: u32) -> Vec<u8> {
        entry(EntryType::Directory, name, "", mode, "")
    }

    fn file(name: &str, content: &str) -> Vec<u8> {
        entry(EntryType::Regular, name, "", 0o640, content)
    }

    fn soft(name: &str, to: &str) -> Vec<u8> {
        entry(EntryType::Symlink, name, to, 0o777, "")
    }

    fn hard(name: &str, to: &str) -> Vec<u8> {
        entry(EntryType::Link, name, to, 0o644, "")
    }

    /// The folder `out` to unpack into, beside the folder `outside` that is not for the archive.
    struct Ground(TempDir);

    impl Ground {
        fn new() -> Self {
            let ground = Self(tempfile::tempdir().unwrap());
            for name in ["out", "outside"] {
                std::fs::create_dir(ground.at(name)).unwrap();
            }
            std::fs::write(ground.at("outside/file"), "mine").unwrap();
            ground.set_mode("outside/file", 0o600);
            ground.set_mode("outside", 0o750);
            ground
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn set_mode(&self, name: &str, mode: u32) {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(self.at(name), permissions).unwrap();
        }

        fn metadata(&self, name: &str) -> std::fs::Metadata {
            std::fs::symlink_metadata(self.at(name)).unwrap()
        }

        fn mode(&self, name: &str) -> u32 {
            self.metadata(name).permissions().mode() & 0o7777
        }

        fn read(&self, name: &str) -> String {
            std::fs::read_to_string(self.at(name)).unwrap()
        }

        fn leads_to(&self, name: &str) -> PathBuf {
            std::fs::read_link(self.at(name)).unwrap()
        }

        fn names(&self, folder: &str) -> Vec<OsString> {
            let entries = std::fs::read_dir(self.at(folder)).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        }

        /// The ways to have the folder `tree` of an archive at `out/tree`.
        fn places(&self) -> [Placed; 3] {
            let tree = self.at("out/tree");
            [Placed::Within(self.at("out")), Placed::As(tree.clone()), Placed::Contents(tree)]
        }

        fn unpack(&self, placed: &Placed, entries: &[Vec<u8>]) -> Result<()> {
            let mut bytes = entries.concat();
            bytes.resize(bytes.len() + 1024, 0);
            put_all(&bytes[..], placed)
        }

        #[track_caller]
        fn nothing_is_outside(&self, what: &str) {
            assert_eq!(self.names(""), ["out", "outside"], "{what}");
            assert_eq!(self.names("outside"), ["file"], "{what}");
            assert_eq!(self.read("outside/file"), "mine", "{what}");
            let modes = (self.mode("outside"), self.mode("outside/file"));
            assert_eq!(modes, (0o750, 0o600), "{what}");
            assert_eq!(self.metadata("outside/file").nlink(), 1, "{what}");
        }
    }

    /// An archive with a link that leads out, and one entry more.
    fn after_link(more: Vec<u8>) -> Vec<Vec<u8>> {
        vec![folder("tree", 0o755), soft("tree/l", "../../outside"), more]
    }

    fn archives_that_lead_out() -> Vec<(&'static str, Vec<Vec<u8>>)> {
        let tree = || folder("tree", 0o755);
        let out = || soft("tree/l", "../../outside");
        let root = || soft("tree", "../outside");
        let old_folder = entry(EntryType::Regular, "tree/l/", "", 0o777, "");
        vec![
            ("a file below a link", after_link(file("tree/l/new", "x"))),
            ("a file that is there below a link", after_link(file("tree/l/file", "x"))),
            ("a folder in place of a link", after_link(folder("tree/l", 0o777))),
            ("the same with a slash", after_link(folder("tree/l/", 0o777))),
            ("the same in the old format", after_link(old_folder)),
            ("a folder below a link", after_link(folder("tree/l/sub", 0o777))),
            ("folders below a link", after_link(folder("tree/l/sub/sub", 0o777))),
            ("a link below a link", after_link(soft("tree/l/new", "file"))),
            ("a hard link through a link", after_link(hard("tree/h", "tree/l/file"))),
            ("a hard link below a link", after_link(hard("tree/l/h", "tree/l"))),
            (
                "a file below a hard link to a link",
                vec![tree(), out(), hard("tree/h", "tree/l"), file("tree/h/new", "x")],
            ),
            (
                "a file below a link through a link",
                vec![
                    tree(),
                    soft("tree/a", "."),
                    soft("tree/b", "a/../../outside"),
                    file("tree/b/new", "x"),
                ],
            ),
            (
                "a link in place of a folder",
                vec![tree(), folder("tree/l", 0o777), out(), file("tree/l/new", "x")],
            ),
            ("a file below a root that is a link", vec![root(), file("tree/new", "x")]),
            ("a folder below a root that is a link", vec![root(), folder("tree/new", 0o777)]),
            ("a folder in place of a root that is a link", vec![root(), folder("tree", 0o777)]),
            ("a root that becomes a link", vec![tree(), root(), file("tree/new", "x")]),
            ("a hard link to outside", vec![tree(), hard("tree/h", "../outside/file")]),
            ("the same from within", vec![tree(), hard("tree/h", "tree/../../outside/file")]),
            ("a hard link to the host", vec![tree(), hard("tree/h", "/etc/hostname")]),
            ("an absolute name", vec![tree(), file("/tree/new", "x")]),
            ("a name that leads up", vec![tree(), file("../new", "x")]),
            ("a name that leads up from within", vec![tree(), file("tree/../../new", "x")]),
            ("a folder that leads up", vec![tree(), folder("tree/../../outside", 0o777)]),
            ("the folder above", vec![tree(), folder("..", 0o777)]),
            ("a link that leads up", vec![tree(), soft("../new", "outside")]),
            ("no name", vec![tree(), folder("./", 0o777)]),
        ]
    }

    #[test]
    fn nothing_leads_out_of_the_target() {
        for (what, entries) in archives_that_lead_out() {
            for number in 0..3 {
                let ground = Ground::new();
                let placed = &ground.places()[number];
                assert!(ground.unpack(placed, &entries).is_err(), "{what}: {placed:?}");
                ground.nothing_is_outside(what);
            }
        }
    }

    #[test]
    fn a_link_that_would_be_followed_is_a_typed_error() {
        for more in [folder("tree/l", 0o777), file("tree/l/new", "x")] {
            let ground = Ground::new();
            let placed = Placed::As(ground.at("out/tree"));
            let error = ground.unpack(&placed, &after_link(more)).unwrap_err();
            let error = error.downcast_ref::<Error>().unwrap();
            assert_eq!(error.kind(), ErrorKind::Internal);
            assert_eq!(error.operation(), Some(Operation::CopyOut));
            assert!(error.message().unwrap().ends_with("out/tree/l"), "{error}");
        }
    }

    #[test]
    fn a_link_in_the_place_of_a_file_is_replaced() {
        let below =
            [folder("tree", 0o755), soft("tree/l", "../../outside/file"), file("tree/l", "new")];
        for number in 0..3 {
            let ground = Ground::new();
            ground.unpack(&ground.places()[number], &below).unwrap();
            assert_eq!(ground.read("out/tree/l"), "new");
            assert!(ground.metadata("out/tree/l").is_file());
            ground.nothing_is_outside("below");
        }
        // The root itself, by the archive's link and by one of the user.
        for number in 0..2 {
            for entries in [
                vec![soft("tree", "../outside/file"), file("tree", "new")],
                vec![file("tree", "new")],
            ] {
                let ground = Ground::new();
                symlink("../outside/file", ground.at("out/tree")).unwrap();
                ground.unpack(&ground.places()[number], &entries).unwrap();
                assert_eq!(ground.read("out/tree"), "new");
                assert!(ground.metadata("out/tree").is_file());
                ground.nothing_is_outside("root");
            }
        }
    }

    #[test]
    fn a_hard_link_is_no_way_to_another_file() {
        let ground = Ground::new();
        let placed = Placed::Within(ground.at("out"));
        let entries = [
            folder("tree", 0o755),
            file("tree/a", "one"),
            hard("tree/b", "tree/a"),
            file("tree/b", "two"),
        ];
        ground.unpack(&placed, &entries).unwrap();
        assert_eq!(ground.read("out/tree/a"), "one");
        assert_eq!(ground.read("out/tree/b"), "two");
        // Neither of these takes away what is there.
        for to in ["tree/a", "tree/none"] {
            assert!(ground.unpack(&placed, &[hard("tree/a", to)]).is_err(), "{to}");
            assert_eq!(ground.read("out/tree/a"), "one");
        }
    }

    #[test]
    fn an_ordinary_archive_comes_as_it_is() {
        let entries = [
            folder("tree/", 0o1750),
            folder("tree/sub/", 0o550),
            file("tree/sub/file", "content"),
            soft("tree/link", "sub/file"),
            soft("tree/out", "../../outside/file"),
            hard("tree/hard", "tree/sub/file"),
            hard("tree/again", "tree/link"),
        ];
        for number in 0..3 {
            let ground = Ground::new();
            let placed = &ground.places()[number];
            // The second time over what is there.
            for _ in 0..2 {
                ground.unpack(placed, &entries).unwrap();
                assert_eq!((ground.mode("out/tree"), ground.mode("out/tree/sub")), (0o1750, 0o550));
                assert_eq!(ground.mode("out/tree/sub/file"), 0o640);
                assert_eq!(ground.read("out/tree/link"), "content");
                assert_eq!(ground.leads_to("out/tree/link"), Path::new("sub/file"));
                assert_eq!(ground.leads_to("out/tree/again"), Path::new("sub/file"));
                assert_eq!(ground.leads_to("out/tree/out"), Path::new("../../outside/file"));
                let inode = |name| ground.metadata(name).ino();
                assert_eq!(inode("out/tree/hard"), inode("out/tree/sub/file"));
                ground.nothing_is_outside("ordinary");
                ground.set_mode("out/tree/sub", 0o700);
            }
        }
    }

    #[test]
    fn a_link_of_the_user_is_followed() {
        let entries = [folder("tree", 0o700), file("tree/file", "content")];
        for (placed, found) in [
            (Placed::Within("way".into()), "out/tree/file"),
            (Placed::As("way/tree".into()), "out/tree/file"),
            (Placed::As("way/new/tree".into()), "out/new/tree/file"),
            (Placed::Contents("way".into()), "out/file"),
            (Placed::Contents("way/new".into()), "out/new/file"),
        ] {
            let ground = Ground::new();
            ground.set_mode("out", 0o711);
            symlink("out", ground.at("way")).unwrap();
            let placed = match placed {
                Placed::Within(path) => Placed::Within(ground.0.path().join(path)),
                Placed::As(path) => Placed::As(ground.0.path().join(path)),
                Placed::Contents(path) => Placed::Contents(ground.0.path().join(path)),
            };
            ground.unpack(&placed, &entries).unwrap();
            assert_eq!(ground.read(found), "content", "{placed:?}");
            assert_eq!(ground.leads_to("way"), Path::new("out"), "{placed:?}");
            assert_eq!(ground.mode("out"), 0o711, "the user's folder keeps its mode: {placed:?}");
        }
    }
}
