//! Unpacking of archives that escape their target, and of ordinary ones.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use runtime_core::ErrorKind;
use tar::Header;
use tempfile::TempDir;

use super::*;

/// Returns an entry with any name and link.
fn entry(kind: EntryType, name: &str, link: &str, mode: u32, content: &str) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    // The setters of the header reject some of the invalid values that are tested here.
    let fields = header.as_old_mut();
    fields.name[..name.len()].copy_from_slice(name.as_bytes());
    fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn directory(name: &str, mode: u32) -> Vec<u8> {
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

/// Directory `out` to unpack into, next to the directory `outside`, which must stay unchanged.
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

    fn names(&self, directory: &str) -> Vec<OsString> {
        let entries = std::fs::read_dir(self.at(directory)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    /// Returns the destinations with which the archive's `tree` ends up at `out/tree`.
    fn places(&self) -> [Placed; 3] {
        let tree = self.at("out/tree");
        [Placed::Within(self.at("out")), Placed::As(tree.clone()), Placed::Contents(tree)]
    }

    fn unpack(&self, placed: &Placed, entries: &[Vec<u8>]) -> Result<()> {
        let mut bytes = entries.concat();
        bytes.resize(bytes.len() + 1024, 0);
        unpack_entries(&bytes[..], placed)
    }

    #[track_caller]
    fn assert_nothing_outside(&self, what: &str) {
        assert_eq!(self.names(""), ["out", "outside"], "{what}");
        assert_eq!(self.names("outside"), ["file"], "{what}");
        assert_eq!(self.read("outside/file"), "mine", "{what}");
        let modes = (self.mode("outside"), self.mode("outside/file"));
        assert_eq!(modes, (0o750, 0o600), "{what}");
        assert_eq!(self.metadata("outside/file").nlink(), 1, "{what}");
    }
}

/// Returns an archive with a link that escapes the target, followed by `more`.
fn after_link(more: Vec<u8>) -> Vec<Vec<u8>> {
    vec![directory("tree", 0o755), soft("tree/l", "../../outside"), more]
}

fn escaping_archives() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let tree = || directory("tree", 0o755);
    let out = || soft("tree/l", "../../outside");
    let root = || soft("tree", "../outside");
    let old_folder = entry(EntryType::Regular, "tree/l/", "", 0o777, "");
    vec![
        ("a file below a link", after_link(file("tree/l/new", "x"))),
        ("a file that is there below a link", after_link(file("tree/l/file", "x"))),
        ("a directory in place of a link", after_link(directory("tree/l", 0o777))),
        ("the same with a slash", after_link(directory("tree/l/", 0o777))),
        ("the same in the old format", after_link(old_folder)),
        ("a directory below a link", after_link(directory("tree/l/sub", 0o777))),
        ("directories below a link", after_link(directory("tree/l/sub/sub", 0o777))),
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
            "a link in place of a directory",
            vec![tree(), directory("tree/l", 0o777), out(), file("tree/l/new", "x")],
        ),
        ("a file below a root that is a link", vec![root(), file("tree/new", "x")]),
        ("a directory below a root that is a link", vec![root(), directory("tree/new", 0o777)]),
        ("a directory in place of a root that is a link", vec![root(), directory("tree", 0o777)]),
        ("a root that becomes a link", vec![tree(), root(), file("tree/new", "x")]),
        ("a hard link to outside", vec![tree(), hard("tree/h", "../outside/file")]),
        ("the same from within", vec![tree(), hard("tree/h", "tree/../../outside/file")]),
        ("a hard link to the host", vec![tree(), hard("tree/h", "/etc/hostname")]),
        ("a name that leads up", vec![tree(), file("../new", "x")]),
        ("a name that leads up from within", vec![tree(), file("tree/../../new", "x")]),
        ("a directory that leads up", vec![tree(), directory("tree/../../outside", 0o777)]),
        ("the directory above", vec![tree(), directory("..", 0o777)]),
        ("a link that leads up", vec![tree(), soft("../new", "outside")]),
    ]
}

#[test]
fn unpack_rejects_escaping_archives() {
    for (what, entries) in escaping_archives() {
        for number in 0..3 {
            let ground = Ground::new();
            let placed = &ground.places()[number];
            assert!(ground.unpack(placed, &entries).is_err(), "{what}: {placed:?}");
            ground.assert_nothing_outside(what);
        }
    }
}

#[test]
fn only_root_archive_has_names_without_common_component() {
    for entries in [
        [directory("./", 0o777), directory("./etc", 0o755), file("./etc/new", "x")],
        [directory("/", 0o777), directory("/etc", 0o755), file("/etc/new", "x")],
    ] {
        let ground = Ground::new();
        ground.set_mode("out", 0o711);
        let [within, named, contents] = ground.places();
        for placed in [named, contents] {
            assert!(ground.unpack(&placed, &entries).is_err(), "{placed:?}");
            let name = [directory("tree", 0o755), entries[2].clone()];
            let unpacked = ground.unpack(&placed, &name);
            assert_eq!(unpacked.is_err(), entries[2][0] == b'/', "{placed:?}");
        }
        ground.assert_nothing_outside("refused");
        ground.unpack(&within, &entries).unwrap();
        assert_eq!(ground.read("out/etc/new"), "x");
        assert_eq!(ground.mode("out"), 0o711, "the user's directory keeps its mode");
        ground.unpack(&Placed::Within(ground.at("out/made")), &entries).unwrap();
        assert_eq!(ground.read("out/made/etc/new"), "x");
        assert_eq!(ground.mode("out/made"), 0o777);
        ground.assert_nothing_outside("a root");
    }
}

/// Returns a stream of chunks that must not be polled after its end, like those of engines.
fn stream(pieces: Vec<runtime_core::Result<Bytes>>) -> ByteStream {
    boxed(futures_util::stream::unfold(pieces.into_iter(), async |mut pieces| {
        Some((pieces.next()?, pieces))
    }))
}

#[tokio::test]
async fn unpack_error_after_archive_end_is_returned() {
    let mut whole = file("file", "content");
    whole.resize(whole.len() + 1024, 0);
    let broken = || Err(Error::internal("tar has ended with 1"));
    let zeros = || Ok(Bytes::from_static(&[0; 512]));
    for pieces in [
        vec![Ok(whole.clone().into()), broken()],
        // More chunks than the channel holds, sent after the receiver is gone.
        std::iter::once(Ok(whole.clone().into()))
            .chain((0..100).map(|_| zeros()))
            .chain([broken()])
            .collect(),
    ] {
        let ground = Ground::new();
        let done = unpack(stream(pieces), Placed::As(ground.at("out/file"))).await;
        let error = done.unwrap_err();
        assert!(format!("{error:#}").contains("tar has ended with 1"), "{error:#}");
        assert_eq!(ground.read("out/file"), "content");
    }
    let ground = Ground::new();
    let pieces = vec![Ok(whole.into()), zeros()];
    unpack(stream(pieces), Placed::As(ground.at("out/file"))).await.unwrap();
}

#[tokio::test]
async fn kind_returns_type_of_first_entry() {
    let long = "x/".repeat(120);
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "link", &long).unwrap();
    for (bytes, found) in [
        (directory("tree/", 0o755), Found::Directory),
        (file("file", "content"), Found::File),
        (soft("bin", "usr/bin"), Found::Link("usr/bin".to_owned())),
        (builder.into_inner().unwrap(), Found::Link(long)),
    ] {
        assert_eq!(kind(stream(vec![Ok(bytes.into())])).await.unwrap(), found);
    }
}

#[tokio::test]
async fn sparse_file_is_packed_as_regular_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("holes");
    std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let mut packed = Vec::new();
    let (mut pieces, _) = pack(path, PathBuf::from("name"));
    while let Some(piece) = pieces.next().await {
        packed.extend_from_slice(&piece.unwrap());
    }
    let mut archive = Archive::new(&packed[..]);
    let entry = archive.entries().unwrap().next().unwrap().unwrap();
    assert_eq!(entry.header().entry_type(), EntryType::Regular);
    assert_eq!(entry.header().size().unwrap(), 1 << 20);
}

#[test]
fn unpack_through_link_returns_typed_error() {
    for more in [directory("tree/l", 0o777), file("tree/l/new", "x")] {
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
fn link_in_place_of_file_is_replaced() {
    let below =
        [directory("tree", 0o755), soft("tree/l", "../../outside/file"), file("tree/l", "new")];
    for number in 0..3 {
        let ground = Ground::new();
        ground.unpack(&ground.places()[number], &below).unwrap();
        assert_eq!(ground.read("out/tree/l"), "new");
        assert!(ground.metadata("out/tree/l").is_file());
        ground.assert_nothing_outside("below");
    }
    // The root itself, replaced by the archive's link and by one of the user.
    for number in 0..2 {
        for entries in
            [vec![soft("tree", "../outside/file"), file("tree", "new")], vec![file("tree", "new")]]
        {
            let ground = Ground::new();
            symlink("../outside/file", ground.at("out/tree")).unwrap();
            ground.unpack(&ground.places()[number], &entries).unwrap();
            assert_eq!(ground.read("out/tree"), "new");
            assert!(ground.metadata("out/tree").is_file());
            ground.assert_nothing_outside("root");
        }
    }
}

#[test]
fn hard_link_cannot_reach_file_outside() {
    let ground = Ground::new();
    let placed = Placed::Within(ground.at("out"));
    let entries = [
        directory("tree", 0o755),
        file("tree/a", "one"),
        hard("tree/b", "tree/a"),
        file("tree/b", "two"),
    ];
    ground.unpack(&placed, &entries).unwrap();
    assert_eq!(ground.read("out/tree/a"), "one");
    assert_eq!(ground.read("out/tree/b"), "two");
    // Neither archive removes the existing file.
    for to in ["tree/a", "tree/none"] {
        assert!(ground.unpack(&placed, &[hard("tree/a", to)]).is_err(), "{to}");
        assert_eq!(ground.read("out/tree/a"), "one");
    }
}

#[test]
fn ordinary_archive_is_unpacked_unchanged() {
    let entries = [
        directory("tree/", 0o1750),
        directory("tree/sub/", 0o550),
        file("tree/sub/file", "content"),
        soft("tree/link", "sub/file"),
        soft("tree/out", "../../outside/file"),
        hard("tree/hard", "tree/sub/file"),
        hard("tree/again", "tree/link"),
    ];
    for number in 0..3 {
        let ground = Ground::new();
        let placed = &ground.places()[number];
        // The second pass unpacks over existing files.
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
            ground.assert_nothing_outside("ordinary");
            ground.set_mode("out/tree/sub", 0o700);
        }
    }
}

#[test]
fn link_of_user_on_path_of_root_is_followed() {
    let entries = [directory("tree", 0o700), file("tree/file", "content")];
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
        assert_eq!(ground.mode("out"), 0o711, "the user's directory keeps its mode: {placed:?}");
    }
}

#[tokio::test]
async fn socket_in_directory_is_skipped_and_named() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("in")).unwrap();
    std::fs::write(directory.path().join("in/file"), "x").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(directory.path().join("sock")).unwrap();
    let (mut pieces, left_out) = pack(directory.path().to_owned(), PathBuf::from("name"));
    let mut packed = Vec::new();
    while let Some(piece) = pieces.next().await {
        packed.extend_from_slice(&piece.unwrap());
    }
    let mut archive = Archive::new(&packed[..]);
    let names = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned());
    let names: Vec<_> = names.collect();
    assert_eq!(names, ["name", "name/in", "name/in/file"].map(PathBuf::from));
    let error = left_out.check().unwrap_err().to_string();
    assert!(error.contains("sock (a socket)"), "{error}");
}

#[tokio::test]
async fn fifos_and_devices_are_packed_with_their_type() {
    let directory = tempfile::tempdir().unwrap();
    let (fifo, mode) = (directory.path().join("fifo"), rustix::fs::Mode::from_raw_mode(0o640));
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    for (source, name, kind, device) in [
        (directory.path(), "tree", EntryType::Fifo, None),
        (Path::new("/dev/null"), "null", EntryType::Char, Some((1, 3))),
    ] {
        let (mut pieces, left_out) = pack(source.to_owned(), PathBuf::from(name));
        let mut packed = Vec::new();
        while let Some(piece) = pieces.next().await {
            packed.extend_from_slice(&piece.unwrap());
        }
        let mut archive = Archive::new(&packed[..]);
        let last = archive.entries().unwrap().last().unwrap().unwrap();
        assert!(last.path().unwrap().starts_with(name));
        let header = last.header();
        assert_eq!((header.entry_type(), header.size().unwrap()), (kind, 0));
        if let Some((major, minor)) = device {
            assert_eq!(header.device_major().unwrap(), Some(major));
            assert_eq!(header.device_minor().unwrap(), Some(minor));
        }
        left_out.check().unwrap();
    }
}

#[test]
fn fifos_and_devices_are_skipped_and_named() {
    for (kind, what) in
        [(EntryType::Fifo, "a FIFO"), (EntryType::Char, "a device"), (EntryType::Block, "a device")]
    {
        let ground = Ground::new();
        let entries =
            [directory("tree", 0o755), entry(kind, "tree/odd", "", 0o644, ""), file("tree/z", "z")];
        let error = ground.unpack(&Placed::As(ground.at("out/tree")), &entries).unwrap_err();
        assert!(error.to_string().contains(&format!("odd ({what})")), "{error}");
        assert!(!ground.at("out/tree/odd").exists());
        assert_eq!(std::fs::read_to_string(ground.at("out/tree/z")).unwrap(), "z");
    }
}
