//! Kubernetes' own programs, built once from Debian's source package and kept outside the
//! checkout. Debian ships no package of the servers.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::WHO;
use crate::process::{PATH, output};
use crate::site::Lock;
use crate::{keeper, mirror, packages, rootfs};

/// The release whose source package it is: it has the whole upstream tree of 1.20, its
/// dependencies included, so that nothing else has to be fetched.
const SUITE: &str = "bookworm";

/// All of them from one tree: a version of the servers and one of the tools.
const PROGRAMS: [&str; 6] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kubectl",
    "kubemark",
];

/// What the build calls. Its scripts name `jq` and `rsync` as build dependencies.
const BUILD_PACKAGES: [&str; 8] =
    ["golang-go", "make", "gcc", "libc6-dev", "dpkg-dev", "patch", "rsync", "jq"];

/// The programs and their version.
#[derive(Debug, Clone)]
pub(crate) struct Binaries {
    dir: PathBuf,
}

impl Binaries {
    fn at(dir: PathBuf) -> Option<Self> {
        dir.join(VERSION).exists().then_some(Self { dir })
    }

    /// The path of one program.
    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.join(name).to_string_lossy().into_owned()
    }

    /// The version that all of them have, `1.20.2`.
    pub(crate) fn version(&self) -> Result<String> {
        Ok(fs::read_to_string(self.dir.join(VERSION))?)
    }
}

/// A file of this name beside the programs says their version.
const VERSION: &str = "VERSION";

fn dir() -> Result<PathBuf> {
    Ok(rootfs::cache()?.join(format!("kubernetes-{SUITE}")))
}

/// The programs, if they are built.
pub(crate) fn find() -> Result<Binaries> {
    Binaries::at(dir()?).context("Kubernetes is not built yet")
}

/// Makes sure that the programs are there.
pub(crate) fn ensure() -> Result<Binaries> {
    let dir = dir()?;
    if let Some(binaries) = Binaries::at(dir.clone()) {
        return Ok(binaries);
    }
    let _lock = Lock::take(&rootfs::cache()?.join(".kubernetes.lock"), WHO)?;
    if let Some(binaries) = Binaries::at(dir.clone()) {
        return Ok(binaries);
    }
    packages::ensure(WHO, &BUILD_PACKAGES)?;
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
        fs::rename(&built, done.join(name)).with_context(|| format!("the build made no {name}"))?;
    }
    let version = output(Command::new(done.join("kubelet")).arg("--version"))?;
    let version = version.trim().trim_start_matches("Kubernetes v");
    anyhow::ensure!(version.starts_with("1."), "kubelet gives a strange version: {version}");
    fs::write(done.join(VERSION), version)?;
    fs::rename(&done, &dir)?;
    fs::remove_dir_all(&work)?;
    crate::say(WHO, &format!("{version} is built and kept ({:.0?})", start.elapsed()));
    Ok(Binaries { dir })
}

/// Fetches and unpacks the source package; gives the folder of the tree.
fn fetch(work: &Path) -> Result<PathBuf> {
    let mirror = mirror::debian_mirror()?;
    crate::say(WHO, &format!("fetching the sources from {mirror}"));
    let apt = packages::Apart::new(work, &format!("deb-src {mirror} {SUITE} main"))?;
    apt.get(&["update"]).context("cannot read the list of source packages")?;
    apt.get(&["source", "kubernetes"]).context("cannot fetch the sources of Kubernetes")?;
    fs::read_dir(work)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.join("cmd/kubelet").is_dir())
        .context("the source package has no tree of Kubernetes")
}

/// Builds as the package's own rules do, with everything that the build writes below `work`.
fn compile(work: &Path, tree: &Path) -> Result<()> {
    let path = tree.join(".go/src/k8s.io");
    fs::create_dir_all(&path)?;
    std::os::unix::fs::symlink("../../..", path.join("kubernetes"))?;
    let home = work.join("home");
    fs::create_dir_all(&home)?;
    let log = work.with_extension("build.log");
    crate::say(WHO, "building, five minutes or more on two cores");
    let mut child = Command::new("setpriv")
        // If we are killed, all of it ends: the next build would find it in its way.
        .args(["--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child"])
        // Others may want the processor more than somebody who waits for minutes anyway.
        .args(["nice", "-n", "19", "sh", "-c"])
        // The shell stays: as the first process of its namespace, make would not end by a signal.
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
        .context("cannot run make")?;
    let printed = child.stdout.take().context("no output of make")?;
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

/// The compiler is silent until it is done: that time goes by is all that there is to say.
fn report_progress(ended: &AtomicBool) {
    let start = Instant::now();
    let mut next = Duration::from_secs(60);
    while !ended.load(Ordering::Acquire) {
        std::thread::sleep(Duration::from_millis(200));
        if start.elapsed() >= next {
            crate::say(WHO, &format!("still building ({} min)", next.as_secs() / 60));
            next += Duration::from_secs(60);
        }
    }
}
