//! Debian packages: installed where they are missing, and only there.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{output, run};
use crate::site::Lock;

/// Other programs may hold the locks of apt for as long as an installation takes.
const WAIT_FOR_LOCK: &str = "DPkg::Lock::Timeout=600";

/// Makes sure that these packages are installed, without their recommendations and without
/// starting the services that they bring.
pub(crate) fn ensure(who: &str, packages: &[&str]) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    let _lock = machine_lock()?;
    let missing = self::missing(&missing)?;
    if missing.is_empty() {
        return Ok(());
    }
    crate::say(who, &format!("installing {}", missing.join(" ")));
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
    // The lists may be absent or out of date: refresh them only when they do not serve.
    if install().is_err() {
        update()?;
        install().with_context(|| format!("cannot install {}", missing.join(" ")))?;
    }
    Ok(())
}

fn update() -> Result<()> {
    run("apt-get", &["update", "-o", WAIT_FOR_LOCK]).context("cannot update apt's lists")?;
    Ok(())
}

/// Which of these packages are not installed.
fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    // The command fails when it does not know one of the names, and prints the others.
    let done = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\n"])
        .args(packages)
        .output()
        .context("cannot run dpkg-query: the test engines need a Debian system")?;
    let text = String::from_utf8_lossy(&done.stdout);
    Ok(packages
        .iter()
        .filter(|package| !text.lines().any(|l| l == format!("{package} installed")))
        .copied()
        .collect())
}

/// Fetches one package and unpacks it into a folder, without installing it: it may be in
/// conflict with one that the machine's owner wants.
pub(crate) fn unpack(who: &str, package: &str, into: &Path) -> Result<()> {
    let _lock = machine_lock()?;
    crate::say(who, &format!("fetching {package}"));
    let download = into.with_extension("download");
    fs::create_dir_all(&download)?;
    let fetch = || {
        output(
            Command::new("apt-get")
                // Else apt complains that its own user cannot write to the folder.
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
        .with_context(|| format!("apt-get download {package} gave no file"))?;
    output(Command::new("dpkg-deb").arg("-x").arg(&file).arg(into))?;
    fs::remove_dir_all(&download)?;
    Ok(())
}

/// apt with lists of its own, for packages of another release or in another form than the
/// machine's: they take a line that most machines do not have, and the machine's own lists stay as
/// they are.
pub(crate) struct Apart<'a> {
    dir: &'a Path,
    options: Vec<String>,
}

impl<'a> Apart<'a> {
    /// With this one source, in a folder that stays the caller's to remove.
    pub(crate) fn new(dir: &'a Path, source: &str) -> Result<Self> {
        let list = dir.join("sources.list");
        fs::write(&list, format!("{source}\n"))?;
        for folder in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(dir.join(folder))?;
        }
        // What this machine has installed is of no use to who asks.
        let status = dir.join("status");
        fs::write(&status, "")?;
        let at = |name: &str, path: &Path| format!("{name}={}", path.display());
        let options = vec![
            at("Dir::Etc::sourcelist", &list),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            at("Dir::State::Lists", &dir.join("lists")),
            at("Dir::State::status", &status),
            at("Dir::Cache::archives", &dir.join("archives")),
            // The system's caches of its own lists are left alone too.
            "Dir::Cache::pkgcache=".to_owned(),
            "Dir::Cache::srcpkgcache=".to_owned(),
            // Else apt complains that its own user cannot write to the folder.
            "APT::Sandbox::User=root".to_owned(),
            // Translated descriptions and the icons of applications are half of what comes.
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
        ];
        Ok(Self { dir, options })
    }

    /// Runs `apt-get` in the folder.
    pub(crate) fn get(&self, arguments: &[&str]) -> Result<String> {
        self.run(self.dir, arguments)
    }

    fn run(&self, dir: &Path, arguments: &[&str]) -> Result<String> {
        let options = self.options.iter().flat_map(|option| ["-o", option.as_str()]);
        output(Command::new("apt-get").current_dir(dir).args(options).args(arguments))
    }

    /// Downloads these packages alone into [`Self::archives`].
    pub(crate) fn download(&self, packages: &[&str]) -> Result<()> {
        self.run(&self.archives(), &[&["download"], packages].concat()).map(drop)
    }

    /// Where what is downloaded to be installed comes to lie.
    pub(crate) fn archives(&self) -> PathBuf {
        self.dir.join("archives")
    }
}

/// A static busybox, from the installed package or from an unpacked one.
pub(crate) fn busybox(who: &str, cache: &Path) -> Result<PathBuf> {
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
        unpack(who, "busybox-static", &dir)?;
    }
    found().context("the package busybox-static has no busybox")
}

/// One installation at a time on this machine, whatever checkout asks for it.
fn machine_lock() -> Result<Lock> {
    Lock::take(&std::env::temp_dir().join("runtime-test-engines.apt.lock"), "apt")
}

/// While it lives, packages that are installed do not start their services.
struct NoServices {
    made: bool,
}

/// Asked by Debian's maintainer scripts before they start anything; 101 forbids it.
const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn begin() -> Result<Self> {
        // A policy that is there is the machine owner's decision.
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
