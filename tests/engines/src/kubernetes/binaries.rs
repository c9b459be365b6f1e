//! Kubernetes binaries, built once from Debian's source package and cached outside of the checkout.
//! Debian has no package of the servers.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::LOG_NAME;
use crate::process::{PATH, output};
use crate::site::Lock;
use crate::{keeper, mirror, packages, rootfs};

/// Release of the source package: it has the whole upstream tree of 1.20 with its dependencies, so
/// nothing else is downloaded.
const SUITE: &str = "bookworm";

/// All from one tree, so that servers and tools have the same version.
const PROGRAMS: [&str; 6] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kubectl",
    "kubemark",
];

/// Build dependencies. The scripts use `jq` and `rsync`.
const BUILD_PACKAGES: [&str; 8] =
    ["golang-go", "make", "gcc", "libc6-dev", "dpkg-dev", "patch", "rsync", "jq"];

/// Built programs.
#[derive(Debug, Clone)]
pub(crate) struct Binaries {
    dir: PathBuf,
}

impl Binaries {
    fn at(dir: PathBuf) -> Option<Self> {
        dir.join(VERSION).exists().then_some(Self { dir })
    }

    /// Returns the path of a program.
    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.join(name).to_string_lossy().into_owned()
    }

    /// Returns the version of all programs, `1.20.2`.
    pub(crate) fn version(&self) -> Result<String> {
        Ok(fs::read_to_string(self.dir.join(VERSION))?)
    }
}

/// File with the version, next to the programs.
const VERSION: &str = "VERSION";

fn dir() -> Result<PathBuf> {
    Ok(rootfs::cache()?.join(format!("kubernetes-{SUITE}")))
}

/// Returns the programs, if they are built.
pub(crate) fn find() -> Result<Binaries> {
    Binaries::at(dir()?).context("Kubernetes is not built yet")
}

/// Builds the programs if they are missing.
pub(crate) fn ensure() -> Result<Binaries> {
    let dir = dir()?;
    if let Some(binaries) = Binaries::at(dir.clone()) {
        return Ok(binaries);
    }
    let _lock = Lock::take(&rootfs::cache()?.join(".kubernetes.lock"), LOG_NAME)?;
    if let Some(binaries) = Binaries::at(dir.clone()) {
        return Ok(binaries);
    }
    packages::ensure(LOG_NAME, &BUILD_PACKAGES)?;
    let work = dir.with_extension("draft");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir_all(&work)?;
    let start = Instant::now();
    let tree = fetch(&work)?;
    compile(&work, &tree)?;
    let done = work.join("done");
    fs::create_dir_all(&done)?;
    for name in PROGRAMS {
        let built = tree.join("_output/bin").join(name);
        fs::rename(&built, done.join(name)).with_context(|| format!("the build has no {name}"))?;
    }
    let version = output(Command::new(done.join("kubelet")).arg("--version"))?;
    let version = version.trim().trim_start_matches("Kubernetes v");
    anyhow::ensure!(version.starts_with("1."), "unexpected version of kubelet: {version}");
    fs::write(done.join(VERSION), version)?;
    fs::rename(&done, &dir)?;
    fs::remove_dir_all(&work)?;
    crate::log_progress(
        LOG_NAME,
        &format!("{version} is built and kept ({:.0?})", start.elapsed()),
    );
    Ok(Binaries { dir })
}

/// Downloads and unpacks the source package; returns the directory of the tree.
fn fetch(work: &Path) -> Result<PathBuf> {
    let mirror = mirror::debian_mirror()?;
    crate::log_progress(LOG_NAME, &format!("fetching the sources from {mirror}"));
    let apt = packages::SeparateApt::new(work, &format!("deb-src {mirror} {SUITE} main"))?;
    apt.get(&["update"]).context("failed to download the list of source packages")?;
    apt.get(&["source", "kubernetes"]).context("failed to download the sources of Kubernetes")?;
    fs::read_dir(work)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.join("cmd/kubelet").is_dir())
        .context("the source package has no Kubernetes tree")
}

/// Builds like the rules of the package, with all output below `work`.
fn compile(work: &Path, tree: &Path) -> Result<()> {
    let path = tree.join(".go/src/k8s.io");
    fs::create_dir_all(&path)?;
    std::os::unix::fs::symlink("../../..", path.join("kubernetes"))?;
    let home = work.join("home");
    fs::create_dir_all(&home)?;
    let log = work.with_extension("build.log");
    crate::log_progress(LOG_NAME, "building, five minutes or more on two cores");
    let mut child = Command::new("setpriv")
        // All processes end if this process is killed; leftovers would disturb the next build.
        .args(["--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child"])
        // Low priority, because the build takes minutes in any case.
        .args(["nice", "-n", "19", "sh", "-c"])
        // The shell stays: as PID 1 of its namespace, make would ignore signals.
        .args(["make \"$@\" 2>&1; exit $?", "make"])
        .arg(format!("WHAT={}", PROGRAMS.map(|name| format!("cmd/{name}")).join(" ")))
        .current_dir(tree)
        .env_clear()
        .env("PATH", format!("/usr/lib/go/bin:{PATH}"))
        .env("HOME", &home)
        .env("TMPDIR", &home)
        .env("GOPATH", tree.join(".go"))
        .env("CGO_ENABLED", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to run make")?;
    let printed = child.stdout.take().context("make has no stdout")?;
    let ended = AtomicBool::new(false);
    let status = std::thread::scope(|scope| {
        scope.spawn(|| report_progress(&ended));
        let copied = copy_lines(BufReader::new(printed), &log);
        let status = child.wait();
        ended.store(true, Ordering::Release);
        copied.and(status.map_err(Into::into))
    })?;
    anyhow::ensure!(status.success(), "the build failed ({status}):\n{}", keeper::tail(&log));
    fs::remove_file(log)?;
    Ok(())
}

fn copy_lines(from: impl BufRead, log: &Path) -> Result<()> {
    use std::io::Write;
    let mut log = fs::File::create(log)?;
    for line in from.split(b'\n') {
        log.write_all(&line?)?;
        log.write_all(b"\n")?;
    }
    Ok(())
}

/// Reports the elapsed time, because the compiler prints nothing until it is done.
fn report_progress(ended: &AtomicBool) {
    let start = Instant::now();
    let mut next = Duration::from_secs(60);
    while !ended.load(Ordering::Acquire) {
        std::thread::sleep(Duration::from_millis(200));
        if start.elapsed() >= next {
            crate::log_progress(LOG_NAME, &format!("still building ({} min)", next.as_secs() / 60));
            next += Duration::from_secs(60);
        }
    }
}
