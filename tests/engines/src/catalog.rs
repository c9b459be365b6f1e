//! Images of the tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use serde_json::json;

use crate::image::{Image, Layer, LayerBuilder};
use crate::process::output;

/// All of busybox with a shell; `CMD ["sh"]`. The users are `root` and `alice` (1000, also in the
/// group `video`, 44).
pub const BUSYBOX: &str = "test/busybox:1";
/// Every default that an image can have, observable from inside: without arguments it prints `entry
/// default-argument`, and it runs as alice in /srv with `FROM_IMAGE=yes`.
pub const ENTRY: &str = "test/entry:1";
/// Busybox with `USER 1234:5678`, which have no names.
pub const GROUPED: &str = "test/grouped:1";
/// Busybox with four additional layers of 4 MiB each that do not compress.
pub const LAYERS: &str = "test/layers:1";
/// The process of an empty sandbox: it waits forever, reaps children and exits on SIGTERM.
pub const PAUSE: &str = "test/pause:1";

/// Returns every image by name; `busybox` is the path of a static busybox.
pub(crate) fn all(busybox: &Path) -> Result<Vec<(&'static str, Image)>> {
    let base = base(busybox)?;
    Ok(vec![
        (BUSYBOX, Image::new(vec![base.clone()], &json!({"Cmd": ["sh"], "Env": [ENV_PATH]}))?),
        (ENTRY, entry(&base)?),
        (
            GROUPED,
            Image::new(
                vec![base.clone()],
                &json!({"Cmd": ["sh"], "Env": [ENV_PATH], "User": "1234:5678"}),
            )?,
        ),
        (LAYERS, layers(&base)?),
        (PAUSE, pause(&base)?),
    ])
}

const ENV_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn base(busybox: &Path) -> Result<Layer> {
    let mut layer = LayerBuilder::default();
    for directory in [
        "bin/",
        "dev/",
        "etc/",
        "home/",
        "mnt/",
        "proc/",
        "root/",
        "run/",
        "sbin/",
        "srv/",
        "sys/",
        "usr/",
        "usr/bin/",
        "usr/sbin/",
        "var/",
        "var/log/",
    ] {
        layer = layer.directory(directory, 0o755, 0);
    }
    layer = layer
        .directory("tmp/", 0o1777, 0)
        .directory("var/tmp/", 0o1777, 0)
        .directory("home/alice/", 0o755, 1000)
        .file(
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\n\
             nobody:x:65534:65534:nobody:/:/bin/false\n\
             alice:x:1000:1000:Alice:/home/alice:/bin/sh\n",
            0o644,
        )
        .file(
            "etc/group",
            "root:x:0:\nvideo:x:44:alice\nusers:x:100:\nalice:x:1000:\nnogroup:x:65534:\n",
            0o644,
        )
        .file("bin/busybox", fs::read(busybox)?, 0o755);
    // Each applet is linked once, at the path of busybox's own installation.
    let applets = output(std::process::Command::new(busybox).arg("--list-full"))?;
    let mut seen = BTreeSet::from(["bin/busybox"]);
    for path in applets.lines().filter(|path| !path.is_empty()) {
        if seen.insert(path) {
            layer = layer.link(path, "/bin/busybox");
        }
    }
    // Scripts expect a shell at this path.
    if seen.insert("bin/sh") {
        layer = layer.link("bin/sh", "/bin/busybox");
    }
    layer.build()
}

fn entry(base: &Layer) -> Result<Image> {
    let script = LayerBuilder::default()
        .file("bin/entry", "#!/bin/sh\necho entry \"$@\"\n", 0o755)
        .build()?;
    Image::new(
        vec![base.clone(), script],
        &json!({
            "Entrypoint": ["/bin/entry"],
            "Cmd": ["default-argument"],
            "Env": [ENV_PATH, "FROM_IMAGE=yes"],
            "WorkingDir": "/srv",
            "User": "alice",
            "Labels": {"image.label": "from the image"},
        }),
    )
}

fn layers(base: &Layer) -> Result<Image> {
    const SIZE: usize = 4 << 20;
    let mut all = vec![base.clone()];
    for number in 1_u8..=4 {
        all.push(
            LayerBuilder::default()
                .file(&format!("srv/data-{number}"), noise(u64::from(number), SIZE), 0o644)
                .build()?,
        );
    }
    Image::new(all, &json!({"Cmd": ["sh"], "Env": [ENV_PATH]}))
}

fn pause(base: &Layer) -> Result<Image> {
    // A signal interrupts the shell's wait, and the shell reaps orphans.
    let script = LayerBuilder::default()
        .file(
            "pause",
            "#!/bin/sh\ntrap 'exit 0' TERM INT\nwhile :; do sleep 3600 & wait $!; done\n",
            0o755,
        )
        .build()?;
    Image::new(vec![base.clone(), script], &json!({"Entrypoint": ["/pause"], "Env": [ENV_PATH]}))
}

/// Returns busybox with a layer that no other image has.
pub(crate) fn unique(busybox: &Path, seed: u64) -> Result<Image> {
    // Packing this layer takes longer than the rest of a push, and its content is constant.
    static BASE: Mutex<Option<Layer>> = Mutex::new(None);
    let mut kept = BASE.lock().unwrap_or_else(PoisonError::into_inner);
    let base = match &*kept {
        Some(base) => base.clone(),
        None => kept.insert(base(busybox)?).clone(),
    };
    drop(kept);
    let own = LayerBuilder::default().file("srv/unique", noise(seed, 64 << 10), 0o644).build()?;
    Image::new(vec![base, own], &json!({"Cmd": ["sh"], "Env": [ENV_PATH]}))
}

/// Returns bytes that do not compress, reproducible from the seed (xorshift64*).
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_reproducible_and_differs_by_seed() {
        assert_eq!(noise(1, 100), noise(1, 100));
        assert_ne!(noise(1, 100), noise(2, 100));
        assert_eq!(noise(3, 101).len(), 101);
    }
}
