//! Copying files into and out of a container, as tar streams.

use std::collections::BTreeMap;
use std::io::Read as _;

use futures_util::stream;
use runtime_core::{
    ByteStream, Bytes, Capability, Container, ContainerStatus, CopyInOptions, CopyOutOptions,
    Error, ErrorKind, ExecOptions,
};

use super::exec::drain;
use crate::case::cases;
use crate::expect::{refused, refused_as, unsupported};
use crate::failure::fail;
use crate::{Context, Failure, Outcome};

cases! { "files":
    into_a_created_container [CopyIn, CopyStopped, Wait, Logs];
    into_a_running_container [CopyIn, Logs];
    out_of_an_exited_container [CopyOut, CopyStopped, Wait];
    out_of_a_container_that_ends [CopyOut, CopyStopped, Wait];
    into_a_container_that_ends [CopyIn, CopyOut, CopyStopped, Wait];
    out_of_a_running_container [CopyOut];
    a_folder_and_back [CopyIn, CopyOut];
    modes_and_owners_in [CopyIn, Wait, Logs];
    modes_and_owners_out [CopyOut];
    a_large_file [CopyIn, CopyOut] heavy long;
    tmpfs_in_and_out [CopyIn, CopyOut, Logs];
    fifos_in_and_out [CopyIn, CopyOut, Logs];
    missing_paths [CopyIn, CopyOut];
    wrong_paths [CopyIn, CopyOut];
    content_that_is_no_archive [CopyIn];
    content_that_fails [CopyIn];
    image_without_tar [CopyIn, CopyOut, Exec];
    dropped_in_mid_copy [CopyIn, CopyOut];
}

/// Entry of a tar stream.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    mode: u32,
    owner: (u64, u64),
    link: Option<String>,
    content: Vec<u8>,
}

fn file(content: &[u8], mode: u32, owner: (u64, u64)) -> Entry {
    Entry { mode, owner, link: None, content: content.to_vec() }
}

/// Packs entries by name; a name that ends with `/` is a directory.
fn pack(entries: &[(&str, Entry)]) -> Result<Vec<u8>, Failure> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, entry) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(entry.mode);
        header.set_uid(entry.owner.0);
        header.set_gid(entry.owner.1);
        header.set_mtime(1_600_000_000);
        match &entry.link {
            Some(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                archive.append_link(&mut header, name, target)?;
            }
            None => {
                let folder = name.ends_with('/');
                header.set_entry_type(match folder {
                    true => tar::EntryType::Directory,
                    false => tar::EntryType::Regular,
                });
                header.set_size(entry.content.len() as u64);
                archive.append_data(&mut header, name, &entry.content[..])?;
            }
        }
    }
    Ok(archive.into_inner()?)
}

fn unpack(bytes: &[u8]) -> Result<BTreeMap<String, Entry>, Failure> {
    let mut entries = BTreeMap::new();
    for entry in tar::Archive::new(bytes).entries()? {
        let mut entry = entry?;
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        let header = entry.header();
        let seen = Entry {
            mode: header.mode()? & 0o7777,
            owner: (header.uid()?, header.gid()?),
            link: entry.link_name()?.map(|link| link.to_string_lossy().into_owned()),
            content,
        };
        let name = entry.path()?.to_string_lossy().trim_end_matches('/').to_owned();
        entries.insert(name, seen);
    }
    Ok(entries)
}

/// Returns a stream of these bytes in chunks of `piece` bytes.
fn streamed(bytes: Vec<u8>, piece: usize) -> ByteStream {
    let bytes = Bytes::from(bytes);
    let pieces: Vec<_> = (0..bytes.len())
        .step_by(piece)
        .map(|at| Ok(bytes.slice(at..(at + piece).min(bytes.len()))))
        .collect();
    Box::pin(stream::iter(pieces))
}

async fn copy_in(container: &dyn Container, path: &str, entries: &[(&str, Entry)]) -> Outcome {
    let content = streamed(pack(entries)?, 700);
    container.copy_in(path, content, CopyInOptions::default()).await?;
    Ok(())
}

async fn copy_out(
    container: &dyn Container,
    path: &str,
) -> Result<BTreeMap<String, Entry>, Failure> {
    unpack(&drain(container.copy_out(path, CopyOutOptions::default()).await?).await?)
}

const ROOT: (u64, u64) = (0, 0);
const LARGE: (u64, u64) = (3_000_000, 4_000_000);

/// Returns a tar stream of one file.
pub(super) fn one_file(name: &str, content: &[u8]) -> Result<ByteStream, Failure> {
    Ok(streamed(pack(&[(name, file(content, 0o600, ROOT))])?, 700))
}

async fn into_a_created_container(t: Context) -> Outcome {
    let container = t.create(&t.spec().command(["cat", "/srv/in"])).await?;
    copy_in(&*container, "/srv", &[("in", file(b"from outside", 0o644, ROOT))]).await?;
    container.start().await?;
    assert!(container.wait().await?.success());
    assert_eq!(t.text(&*container).await?, "from outside");
    Ok(())
}

async fn into_a_running_container(t: Context) -> Outcome {
    let script = "echo ready; while [ ! -e /srv/in ]; do sleep 0.05; done; cat /srv/in; sleep 3600";
    let container = t.ready(&t.script(script)).await?;
    copy_in(&*container, "/srv", &[("in", file(b"from outside\n", 0o644, ROOT))]).await?;
    t.until_logged(&*container, "from outside").await
}

async fn out_of_an_exited_container(t: Context) -> Outcome {
    let (container, _) = t.run(&t.script("printf made > /srv/out; chmod 640 /srv/out")).await?;
    let entries = copy_out(&*container, "/srv/out").await?;
    assert_eq!(entries.len(), 1);
    assert_eq!(entries["out"], file(b"made", 0o640, ROOT));
    Ok(())
}

/// Reads or writes continuously, from before the exit to after it.
async fn out_of_a_container_that_ends(t: Context) -> Outcome {
    for _ in 0..3 {
        let script = "printf made > /srv/out; echo ready; sleep 0.3";
        let container = t.ready(&t.script(script)).await?;
        loop {
            let is_last = container.info().await?.status == ContainerStatus::Exited;
            assert_eq!(copy_out(&*container, "/srv/out").await?["out"].content, b"made");
            if is_last {
                break;
            }
        }
    }
    Ok(())
}

async fn into_a_container_that_ends(t: Context) -> Outcome {
    for _ in 0..3 {
        let container = t.ready(&t.script("echo ready; sleep 0.3")).await?;
        let mut names = Vec::new();
        loop {
            let is_last = container.info().await?.status == ContainerStatus::Exited;
            let name = format!("in-{}", names.len());
            let content = pack(&[(&name, file(name.as_bytes(), 0o644, ROOT))])?;
            let content = streamed(content, 700);
            match container.copy_in("/srv", content, CopyInOptions::default()).await {
                Ok(()) => names.push(name),
                // Podman does not report whether the files are there.
                Err(error) if error.kind() == ErrorKind::Lost && !is_last => continue,
                Err(error) => return Err(error.into()),
            }
            if is_last {
                break;
            }
        }
        let seen = copy_out(&*container, "/srv").await?;
        for name in names {
            let content = seen.get(&format!("srv/{name}")).map(|entry| &*entry.content);
            assert_eq!(content, Some(name.as_bytes()), "of {:?}", seen.keys());
        }
    }
    Ok(())
}

async fn out_of_a_running_container(t: Context) -> Outcome {
    let container = t.ready(&t.script("printf made > /srv/out; echo ready; sleep 3600")).await?;
    assert_eq!(copy_out(&*container, "/srv/out").await?["out"].content, b"made");
    Ok(())
}

async fn a_folder_and_back(t: Context) -> Outcome {
    let folder = |mode| Entry { mode, owner: ROOT, link: None, content: Vec::new() };
    let link = Entry { link: Some("file".to_owned()), ..folder(0o777) };
    let long = format!("top/{}", "long-name-".repeat(15));
    let entries = [
        ("top/", folder(0o755)),
        ("top/file", file(b"content", 0o644, ROOT)),
        ("top/empty", file(b"", 0o600, ROOT)),
        ("top/deep/", folder(0o700)),
        ("top/deep/er/", folder(0o755)),
        ("top/deep/er/file ä", file(b"\0\xff binary", 0o644, ROOT)),
        ("top/link", link),
        (&long, file(b"long", 0o644, ROOT)),
    ];
    let container = t.shared().await?;
    copy_in(&*container, "/var/tmp", &entries).await?;
    let back = copy_out(&*container, "/var/tmp/top").await?;
    assert_eq!(back.len(), entries.len(), "{:?}", back.keys());
    for (name, wanted) in entries {
        let Some(seen) = back.get(name.trim_end_matches('/')) else { fail!("{name} is lost") };
        assert_eq!(seen, &wanted, "{name}");
    }
    Ok(())
}

async fn modes_and_owners_in(t: Context) -> Outcome {
    let script = "until [ -e /srv/last ]; do sleep 0.05; done
                  stat -c '%n %a %u %g' /srv/private /srv/program /srv/owned /srv/large /srv/pax; /srv/program; sleep 3600";
    let container = t.start(&t.script(script)).await?;
    let entries = [
        ("private", file(b"x", 0o600, ROOT)),
        ("program", file(b"#!/bin/sh\necho runs\n", 0o755, ROOT)),
        ("owned", file(b"x", 0o4640, (1000, 44))),
        // The owner does not fit in the octal digits of a header: a binary number, as GNU tar writes it.
        ("large", file(b"x", 0o640, LARGE)),
    ];
    copy_in(&*container, "/srv", &entries).await?;
    // The same owner in an extended header, as pax writes it.
    let mut archive = tar::Builder::new(Vec::new());
    let owners = b"15 uid=3000000\n15 gid=4000000\n";
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::XHeader);
    header.set_size(owners.len() as u64);
    archive.append_data(&mut header, "PaxHeaders/pax", &owners[..])?;
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o600);
    header.set_size(0);
    archive.append_data(&mut header, "pax", std::io::empty())?;
    let content = streamed(archive.into_inner()?, 700);
    container.copy_in("/srv", content, CopyInOptions::default()).await?;
    copy_in(&*container, "/srv", &[("last", file(b"", 0o644, ROOT))]).await?;
    t.until_logged(&*container, "runs").await?;
    assert_eq!(
        t.text(&*container).await?,
        "/srv/private 600 0 0\n/srv/program 755 0 0\n/srv/owned 4640 1000 44\n\
         /srv/large 640 3000000 4000000\n/srv/pax 600 3000000 4000000\nruns\n"
    );
    Ok(())
}

async fn modes_and_owners_out(t: Context) -> Outcome {
    let script = "echo x > /srv/owned; chown 1000:44 /srv/owned; chmod 4640 /srv/owned
                  echo y > /srv/large; chown 3000000:4000000 /srv/large
                  echo ready; sleep 3600";
    let container = t.ready(&t.script(script)).await?;
    let entries = copy_out(&*container, "/srv/owned").await?;
    assert_eq!(entries["owned"], file(b"x\n", 0o4640, (1000, 44)));
    let entries = copy_out(&*container, "/srv/large").await?;
    assert_eq!(entries["large"], file(b"y\n", 0o644, LARGE));
    Ok(())
}

async fn a_large_file(t: Context) -> Outcome {
    const SIZE: usize = 64 << 20;
    let content: Vec<u8> = (0..SIZE).map(|at| (at / 251) as u8 ^ (at >> 16) as u8).collect();
    let container = t.shared().await?;
    let entry = file(&content, 0o644, ROOT);
    let packed = pack(&[("large", entry)])?;
    container.copy_in("/srv", streamed(packed, 100_000), CopyInOptions::default()).await?;
    let back = copy_out(&*container, "/srv/large").await?;
    assert_eq!(back["large"].content.len(), SIZE);
    assert!(back["large"].content == content, "the content has changed");
    Ok(())
}

/// Copies files that are in memory and not in the container's own file system.
async fn tmpfs_in_and_out(t: Context) -> Outcome {
    let script = "echo out > /dev/shm/out; echo ready
                  until [ -e /dev/shm/in ]; do sleep 0.05; done; cat /dev/shm/in; sleep 3600";
    let container = t.ready(&t.script(script)).await?;
    let entries = copy_out(&*container, "/dev/shm/out").await?;
    assert_eq!(entries["out"].content, b"out\n");
    copy_in(&*container, "/dev/shm", &[("in", file(b"from outside\n", 0o644, ROOT))]).await?;
    t.until_logged(&*container, "from outside").await
}

/// A FIFO remains a FIFO.
async fn fifos_in_and_out(t: Context) -> Outcome {
    let script = "mkfifo /srv/fifo; echo ready
                  until [ -p /srv/copied ]; do sleep 0.05; done; echo seen; sleep 3600";
    let container = t.ready(&t.script(script)).await?;
    let packed = container.copy_out("/srv/fifo", CopyOutOptions::default()).await?;
    let packed = drain(packed).await?;
    let mut archive = tar::Archive::new(&packed[..]);
    let Some(entry) = archive.entries()?.next() else { fail!("the archive is empty") };
    assert_eq!(entry?.header().entry_type(), tar::EntryType::Fifo);
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Fifo);
    header.set_mode(0o600);
    header.set_size(0);
    archive.append_data(&mut header, "copied", std::io::empty())?;
    let content = streamed(archive.into_inner()?, 700);
    container.copy_in("/srv", content, CopyInOptions::default()).await?;
    t.until_logged(&*container, "seen").await
}

async fn missing_paths(t: Context) -> Outcome {
    let container = t.shared().await?;
    let out = container.copy_out("/no/such/file", CopyOutOptions::default()).await;
    assert_eq!(refused(out, ErrorKind::NotFound)?.field(), Some("path"));
    let content = streamed(pack(&[("a", file(b"a", 0o644, ROOT))])?, 700);
    let into = container.copy_in("/no/such/folder", content, CopyInOptions::default()).await;
    assert_eq!(refused(into, ErrorKind::NotFound)?.field(), Some("path"));
    Ok(())
}

async fn wrong_paths(t: Context) -> Outcome {
    let container = t.shared().await?;
    for path in ["", "relative", "nul\0"] {
        let out = container.copy_out(path, CopyOutOptions::default()).await;
        assert_eq!(refused(out, ErrorKind::InvalidArgument)?.field(), Some("path"));
        let content = streamed(pack(&[])?, 700);
        let into = container.copy_in(path, content, CopyInOptions::default()).await;
        assert_eq!(refused(into, ErrorKind::InvalidArgument)?.field(), Some("path"));
    }
    Ok(())
}

async fn content_that_is_no_archive(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    let content = streamed(b"this is no tar stream ".repeat(100), 700);
    let copied = container.copy_in("/srv", content, CopyInOptions::default()).await;
    refused(copied, ErrorKind::InvalidArgument)?;
    Ok(())
}

async fn content_that_fails(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    let mut packed = pack(&[("a", file(&vec![b'a'; 100_000], 0o644, ROOT))])?;
    packed.truncate(50_000);
    let failing = stream::iter([
        Ok(Bytes::from(packed)),
        Err(Error::internal("the source has failed").with_retryable(false)),
    ]);
    let copied = container.copy_in("/srv", Box::pin(failing), CopyInOptions::default()).await;
    let error = refused_as(copied, &[ErrorKind::Internal, ErrorKind::InvalidArgument])?;
    let words = crate::expect::chain(&error);
    assert!(words.contains("the source has failed"), "the cause is lost: {words}");
    Ok(())
}

/// Script that leaves the container without a `tar`. A busybox shell runs its applets even if they are not in
/// `PATH`, so busybox is replaced by a copy in which the applet has another name.
const WITHOUT_TAR: &str = r"cp /bin/busybox /srv/busybox
strings -n 3 -t d /bin/busybox | grep ' tar$' | while read -r at word; do
    printf taq | dd of=/srv/busybox bs=1 seek=$at conv=notrunc 2>/dev/null
done
mv /srv/busybox /bin/busybox
rm -f /bin/tar /usr/bin/tar
echo ready; sleep 3600";

/// An engine that copies with the container's own `tar` reports that it is missing; another engine needs
/// none.
async fn image_without_tar(t: Context) -> Outcome {
    let container = t.ready(&t.script(WITHOUT_TAR)).await?;
    let looked = container.exec(ExecOptions::new(["sh", "-c", "command -v tar"])).await?;
    assert_ne!(looked.control.wait().await?.code, 0, "there is a tar");
    let entries = [("in", file(b"from outside", 0o644, ROOT))];
    if t.has(Capability::CopyStopped) {
        copy_in(&*container, "/srv", &entries).await?;
        assert_eq!(copy_out(&*container, "/srv/in").await?["in"].content, b"from outside");
        return Ok(());
    }
    let content = streamed(pack(&entries)?, 700);
    let into = container.copy_in("/srv", content, CopyInOptions::default()).await;
    let out = container.copy_out("/etc/passwd", CopyOutOptions::default()).await.map(drop);
    for (refused, capability) in [(into, Capability::CopyIn), (out, Capability::CopyOut)] {
        let error = unsupported(refused, capability)?;
        assert!(error.message().is_some_and(|words| words.contains("`tar`")), "{error}");
    }
    Ok(())
}

async fn dropped_in_mid_copy(t: Context) -> Outcome {
    let container = t.ready(&t.script(BIG)).await?;
    for _ in 0..5 {
        drop_copies(&*container).await?;
    }
    assert_eq!(copy_out(&*container, "/srv/big").await?["big"].content.len(), 8 << 20);
    Ok(())
}

/// Script that creates a file larger than the read-ahead of a reader.
pub(super) const BIG: &str =
    "dd if=/dev/zero of=/srv/big bs=1M count=8 2>/dev/null; echo ready; sleep 3600";

/// Drops a copy out of a container that runs [`BIG`] and a copy into it, both in progress.
pub(super) async fn drop_copies(container: &dyn Container) -> Outcome {
    use futures_util::StreamExt as _;
    let mut out = container.copy_out("/srv/big", CopyOutOptions::default()).await?;
    assert!(out.next().await.is_some());
    drop(out);
    let endless = stream::iter([Ok(Bytes::from(pack(&[("a", file(b"a", 0o644, ROOT))])?))])
        .chain(stream::pending());
    let copy = container.copy_in("/srv", Box::pin(endless), CopyInOptions::default());
    let dropped = tokio::time::timeout(std::time::Duration::from_millis(100), copy).await;
    // A tar stream has an end marker, and an engine may stop reading there.
    if let Ok(copied) = dropped {
        copied?;
    }
    Ok(())
}
