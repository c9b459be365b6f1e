//! Container images from a few files; the same input gives the same digests.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Layer: a compressed archive and the digests of both forms.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) blob: Vec<u8>,
    pub(crate) digest: String,
    /// The digest of the uncompressed archive.
    diff_id: String,
}

/// Image, ready to be pushed.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) layers: Vec<Layer>,
    pub(crate) config: Vec<u8>,
    pub(crate) config_digest: String,
    pub(crate) manifest: Vec<u8>,
}

/// Manifest format that all engines of the last ten years accept.
pub(crate) const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

impl Image {
    /// Creates an image from layers and the `config` object of a container.
    pub(crate) fn new(layers: Vec<Layer>, config: &Value) -> Result<Self> {
        let diff_ids: Vec<_> = layers.iter().map(|layer| &layer.diff_id).collect();
        let config = serde_json::to_vec(&json!({
            "architecture": architecture(),
            "os": "linux",
            "created": "2020-01-01T00:00:00Z",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": diff_ids.iter().map(|_| json!({"created_by": "test"})).collect::<Vec<_>>(),
        }))?;
        let config_digest = digest(&config);
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "size": config.len(),
                "digest": config_digest,
            },
            "layers": layers.iter().map(|layer| json!({
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "size": layer.blob.len(),
                "digest": layer.digest,
            })).collect::<Vec<_>>(),
        }))?;
        Ok(Self { layers, config, config_digest, manifest })
    }

    /// Returns an archive for `docker load` and `ctr images import`.
    pub(crate) fn archive(&self, name: &str) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        let file = |digest: &str| digest.replace("sha256:", "") + ".tar.gz";
        for layer in &self.layers {
            append(&mut archive, &file(&layer.digest), &layer.blob, 0o644, 0)?;
        }
        append(&mut archive, "config.json", &self.config, 0o644, 0)?;
        let index = json!([{
            "Config": "config.json",
            "RepoTags": [name],
            "Layers": self.layers.iter().map(|l| file(&l.digest)).collect::<Vec<_>>(),
        }]);
        let index = serde_json::to_vec(&index)?;
        append(&mut archive, "manifest.json", &index, 0o644, 0)?;
        Ok(archive.into_inner()?)
    }
}

/// Builder of a layer.
#[derive(Debug, Default)]
pub(crate) struct LayerBuilder(Vec<Entry>);

#[derive(Debug)]
enum Entry {
    Folder(String, u32, u64),
    File(String, Vec<u8>, u32),
    Link(String, String),
}

impl LayerBuilder {
    pub(crate) fn directory(mut self, path: &str, mode: u32, owner: u64) -> Self {
        self.0.push(Entry::Folder(path.to_owned(), mode, owner));
        self
    }

    pub(crate) fn file(mut self, path: &str, content: impl Into<Vec<u8>>, mode: u32) -> Self {
        self.0.push(Entry::File(path.to_owned(), content.into(), mode));
        self
    }

    pub(crate) fn link(mut self, path: &str, target: &str) -> Self {
        self.0.push(Entry::Link(path.to_owned(), target.to_owned()));
        self
    }

    pub(crate) fn build(self) -> Result<Layer> {
        let mut archive = tar::Builder::new(Vec::new());
        for entry in &self.0 {
            match entry {
                Entry::Folder(path, mode, owner) => {
                    let mut header = header(tar::EntryType::Directory, 0, *mode, *owner);
                    archive.append_data(&mut header, path, std::io::empty())?;
                }
                Entry::File(path, content, mode) => {
                    append(&mut archive, path, content, *mode, 0)?;
                }
                Entry::Link(path, target) => {
                    let mut header = header(tar::EntryType::Symlink, 0, 0o777, 0);
                    archive.append_link(&mut header, path, Path::new(target))?;
                }
            }
        }
        let plain = archive.into_inner()?;
        // The header of the compressed form has no name and no time.
        let mut gzip = GzBuilder::new().write(Vec::new(), Compression::fast());
        gzip.write_all(&plain)?;
        let blob = gzip.finish()?;
        Ok(Layer { digest: digest(&blob), diff_id: digest(&plain), blob })
    }
}

fn header(kind: tar::EntryType, size: u64, mode: u32, owner: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_mtime(0);
    header
}

fn append(
    archive: &mut tar::Builder<Vec<u8>>,
    path: &str,
    content: &[u8],
    mode: u32,
    owner: u64,
) -> Result<()> {
    let size = u64::try_from(content.len())?;
    let mut header = header(tar::EntryType::Regular, size, mode, owner);
    archive.append_data(&mut header, path, content)?;
    Ok(())
}

/// Returns the digest of a blob in the format of registries.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Returns this machine's architecture in the naming of images.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_has_format_of_registries() {
        assert_eq!(
            digest(b""),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn same_input_gives_same_image() {
        let make = || {
            let layer = LayerBuilder::default()
                .directory("tmp/", 0o1777, 0)
                .file("bin/a", b"a".to_vec(), 0o755)
                .link("bin/b", "a")
                .build()
                .unwrap();
            Image::new(vec![layer], &json!({"Cmd": ["a"]})).unwrap()
        };
        assert_eq!(make().manifest, make().manifest);
    }
}
