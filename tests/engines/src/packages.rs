//! Debian packages, installed if missing.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{output, run};
use crate::site::Lock;

/// Timeout for the locks of apt, which other programs hold during an installation.
const WAIT_FOR_LOCK: &str = "DPkg::Lock::Timeout=600";

/// Installs missing packages without their recommendations and without starting their services.
pub(crate) fn ensure(label: &str, packages: &[&str]) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    let _lock = machine_lock()?;
    let missing = self::missing(&missing)?;
    if missing.is_empty() {
        return Ok(());
    }
    crate::log_progress(label, &format!("installing {}", missing.join(" ")));
    let _quiet = NoServices::begin()?;
    let install = || {
        output(
            Command::new("apt-get")
                .args(["install", "-y", "--no-install-recommends", "-o"])
                .arg(WAIT_FOR_LOCK)
                .args(&missing)
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )
    };
    // The lists may be missing or out of date; they are updated only if the installation fails.
    if install().is_err() {
        update()?;
        install().with_context(|| format!("failed to install {}", missing.join(" ")))?;
    }
    Ok(())
}

fn update() -> Result<()> {
    run("apt-get", &["update", "-o", WAIT_FOR_LOCK]).context("failed to update apt's lists")?;
    Ok(())
}

/// Returns the packages that are not installed.
fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    // The command fails if a name is unknown, and prints the others.
    let done = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\n"])
        .args(packages)
        .output()
        .context("failed to run dpkg-query: the test engines need a Debian system")?;
    let text = String::from_utf8_lossy(&done.stdout);
    Ok(packages
        .iter()
        .filter(|package| !text.lines().any(|l| l == format!("{package} installed")))
        .copied()
        .collect())
}

/// Downloads a package and unpacks it into a directory without installing it, because it may
/// conflict with an installed package.
pub(crate) fn unpack(label: &str, package: &str, into: &Path) -> Result<()> {
    let _lock = machine_lock()?;
    crate::log_progress(label, &format!("fetching {package}"));
    let download = into.with_extension("download");
    fs::create_dir_all(&download)?;
    let fetch = || {
        output(
            Command::new("apt-get")
                // Avoids a warning that apt's user cannot write to the directory.
                .args(["download", "-o", "APT::Sandbox::User=root", package])
                .current_dir(&download),
        )
    };
    if fetch().is_err() {
        update()?;
        fetch()?;
    }
    let file = fs::read_dir(&download)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .with_context(|| format!("apt-get download {package} created no file"))?;
    output(Command::new("dpkg-deb").arg("-x").arg(&file).arg(into))?;
    fs::remove_dir_all(&download)?;
    Ok(())
}

/// apt with separate lists, for packages of another release or of another type. These need a source
/// that most machines do not have, and the machine's own lists must not change.
pub(crate) struct SeparateApt<'a> {
    dir: &'a Path,
    options: Vec<String>,
}

impl<'a> SeparateApt<'a> {
    /// Creates an apt with this one source, in a directory that the caller removes.
    pub(crate) fn new(dir: &'a Path, source: &str) -> Result<Self> {
        let list = dir.join("sources.list");
        fs::write(&list, format!("{source}\n"))?;
        for directory in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(dir.join(directory))?;
        }
        // The installed packages of this machine are not considered.
        let status = dir.join("status");
        fs::write(&status, "")?;
        let at = |name: &str, path: &Path| format!("{name}={}", path.display());
        let options = vec![
            at("Dir::Etc::sourcelist", &list),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            at("Dir::State::Lists", &dir.join("lists")),
            at("Dir::State::status", &status),
            at("Dir::Cache::archives", &dir.join("archives")),
            // The system's caches of its own lists are not changed.
            "Dir::Cache::pkgcache=".to_owned(),
            "Dir::Cache::srcpkgcache=".to_owned(),
            // Avoids a warning that apt's user cannot write to the directory.
            "APT::Sandbox::User=root".to_owned(),
            // Translated descriptions and icons are half of the download.
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
        ];
        Ok(Self { dir, options })
    }

    /// Runs `apt-get` in the directory.
    pub(crate) fn get(&self, arguments: &[&str]) -> Result<String> {
        self.run(self.dir, arguments)
    }

    fn run(&self, dir: &Path, arguments: &[&str]) -> Result<String> {
        let options = self.options.iter().flat_map(|option| ["-o", option.as_str()]);
        output(Command::new("apt-get").current_dir(dir).args(options).args(arguments))
    }

    /// Downloads these packages without dependencies into [`Self::archives`].
    pub(crate) fn download(&self, packages: &[&str]) -> Result<()> {
        self.run(&self.archives(), &[&["download"], packages].concat()).map(drop)
    }

    /// Returns the directory of downloaded packages.
    pub(crate) fn archives(&self) -> PathBuf {
        self.dir.join("archives")
    }
}

/// Returns a static busybox, from the installed package or from an unpacked one.
pub(crate) fn busybox(label: &str, cache: &Path) -> Result<PathBuf> {
    if missing(&["busybox-static"])?.is_empty() {
        return Ok(PathBuf::from("/bin/busybox"));
    }
    let dir = cache.join("busybox-static");
    let found = || {
        ["bin/busybox", "usr/bin/busybox"]
            .iter()
            .map(|name| dir.join(name))
            .find(|path| path.is_file())
    };
    if found().is_none() {
        unpack(label, "busybox-static", &dir)?;
    }
    found().context("the package busybox-static contains no busybox")
}

/// Takes the machine-wide lock that serializes installations of all checkouts.
fn machine_lock() -> Result<Lock> {
    Lock::take(&std::env::temp_dir().join("runtime-test-engines.apt.lock"), "apt")
}

/// While this guard exists, installed packages do not start their services.
struct NoServices {
    made: bool,
}

/// Debian's maintainer scripts run this program before they start a service; 101 denies the start.
const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn begin() -> Result<Self> {
        // An existing policy of the machine's owner is kept.
        let made = !Path::new(POLICY).exists();
        if made {
            fs::write(POLICY, "#!/bin/sh\nexit 101\n")?;
            fs::set_permissions(POLICY, Permissions::from_mode(0o755))?;
        }
        Ok(Self { made })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.made {
            let _ = fs::remove_file(POLICY);
        }
    }
}
