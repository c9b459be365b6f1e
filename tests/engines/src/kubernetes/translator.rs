//! The part of a current Kubernetes API server that accepts sessions over WebSockets, as a separate
//! program that is built once and cached outside of the checkout.
//!
//! No Debian release has the sources of a current server, but unstable has this part as a library.
//! The program in the directory `translator` puts it in front of the older servers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::LOG_NAME;
use crate::process::{PATH, output};
use crate::site::Lock;
use crate::{mirror, packages, rootfs};

const SUITE: &str = "sid";

/// Imports of the program and their dependencies, without those of [`EXCLUDED_FILES`]. By their
/// package metadata, the libraries depend on seven times as many packages as are compiled.
const LIBRARIES: [&str; 32] = [
    "golang-github-davecgh-go-spew-dev",
    "golang-github-docker-spdystream-dev",
    "golang-github-fxamacker-cbor-dev",
    "golang-github-go-logr-logr-dev",
    "golang-github-gorilla-websocket-dev",
    "golang-github-json-iterator-go-dev",
    "golang-github-modern-go-concurrent-dev",
    "golang-github-modern-go-reflect2-dev",
    "golang-github-munnerz-goautoneg-dev",
    "golang-github-mxk-go-flowrate-dev",
    "golang-github-spf13-pflag-dev",
    "golang-github-x448-float16-dev",
    "golang-golang-x-net-dev",
    "golang-golang-x-oauth2-dev",
    "golang-golang-x-sys-dev",
    "golang-golang-x-term-dev",
    "golang-golang-x-text-dev",
    "golang-golang-x-time-dev",
    "golang-gopkg-inf.v0-dev",
    "golang-gopkg-yaml.v2-dev",
    "golang-k8s-api-dev",
    "golang-k8s-apimachinery-dev",
    "golang-k8s-apiserver-dev",
    "golang-k8s-client-go-dev",
    "golang-k8s-klog-dev",
    "golang-k8s-kube-openapi-dev",
    "golang-k8s-sigs-json-dev",
    "golang-k8s-sigs-randfill-dev",
    "golang-k8s-sigs-structured-merge-diff-v6-dev",
    "golang-k8s-sigs-yaml-dev",
    "golang-k8s-streaming-dev",
    "golang-k8s-utils-dev",
];

/// The package with the handlers.
const HANDLERS: &str = "k8s.io/apiserver/pkg/util/proxy";

/// Files of that package that do not handle sessions and import most of a server.
const EXCLUDED_FILES: [&str; 3] = ["endpointslice.go", "proxy.go", "streamtunnel.go"];

/// The program's sources.
const MAIN: &str = include_str!("../../translator/main.go");
const METRICS: &str = include_str!("../../translator/metrics/metrics.go");

/// Number of download attempts: unstable may change between the list and the packages.
const DOWNLOAD_ATTEMPTS: usize = 3;

/// Builds the program if it is missing, and returns its path. It is called with `-kubeconfig` and a
/// path, prints the address that it serves without encryption, and exits at the end of its stdin.
/// Its clients have the rights of that kubeconfig.
///
/// # Errors
/// If the download or the build fails.
pub fn ensure() -> Result<PathBuf> {
    let cache = rootfs::cache()?;
    let program = cache.join(format!("websocket-translator-{}", key()));
    if program.exists() {
        return Ok(program);
    }
    let _lock = Lock::take(&cache.join(".websocket-translator.lock"), LOG_NAME)?;
    if program.exists() {
        return Ok(program);
    }
    let work = cache.join("websocket-translator.draft");
    remove(&work)?;
    fs::create_dir_all(&work)?;
    let start = Instant::now();
    let root = fetch(&work)?;
    let fetched = start.elapsed();
    let built = compile(&work, &root)?;
    fs::rename(built, &program)?;
    remove(&work)?;
    let whole = start.elapsed();
    crate::log_progress(
        LOG_NAME,
        &format!(
            "the translator is built and kept ({whole:.0?}, {fetched:.0?} of it for fetching)"
        ),
    );
    Ok(program)
}

/// The cache key includes the sources.
fn key() -> String {
    let mut hash = Sha256::new();
    for part in [MAIN, METRICS].iter().chain(&LIBRARIES).chain(&EXCLUDED_FILES) {
        hash.update(part);
        hash.update([0]);
    }
    hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

fn remove(work: &Path) -> Result<()> {
    match fs::remove_dir_all(work) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove {}", work.display()))
        }
        _ => Ok(()),
    }
}

/// Unpacks the compiler and the libraries; returns the directory.
///
/// The compiler is a static program and the libraries are sources, so no system around them is
/// needed.
fn fetch(work: &Path) -> Result<PathBuf> {
    let mirror = mirror::debian_mirror()?;
    crate::log_progress(
        LOG_NAME,
        &format!("fetching a compiler and libraries of {SUITE} from {mirror}"),
    );
    let apt = packages::SeparateApt::new(work, &format!("deb {mirror} {SUITE} main"))?;
    let mut fetched = fetch_once(&apt);
    for _ in 1..DOWNLOAD_ATTEMPTS {
        if fetched.is_err() {
            fetched = fetch_once(&apt);
        }
    }
    fetched.context("failed to download the packages of the translator")?;
    let root = work.join("root");
    for entry in fs::read_dir(apt.archives())?.flatten() {
        if entry.path().extension().is_some_and(|e| e == "deb") {
            output(Command::new("dpkg-deb").arg("-x").arg(entry.path()).arg(&root))?;
        }
    }
    Ok(root)
}

fn fetch_once(apt: &packages::SeparateApt<'_>) -> Result<()> {
    apt.get(&["update"])?;
    // With dependencies, because the real package has its version in its name.
    apt.get(&["install", "-y", "--no-install-recommends", "--download-only", "golang-go"])?;
    apt.download(&LIBRARIES)
}

/// Builds like Debian builds programs with these libraries: in one tree, without modules.
fn compile(work: &Path, root: &Path) -> Result<PathBuf> {
    crate::log_progress(LOG_NAME, "building the translator, about a minute on two cores");
    let sources = work.join("src");
    fs::create_dir_all(&sources)?;
    fs::write(sources.join("main.go"), MAIN)?;
    let metrics = work.join("metrics.go");
    fs::write(&metrics, METRICS)?;
    let path = root.join("usr/share/gocode");
    let handlers = path.join("src").join(HANDLERS);
    let mut instead = serde_json::Map::new();
    let mut replace = |name: &str, with: &str| {
        let file = handlers.join(name);
        anyhow::ensure!(file.exists(), "{HANDLERS} no longer has {name}");
        instead.insert(file.to_string_lossy().into_owned(), with.into());
        Ok(())
    };
    for name in EXCLUDED_FILES {
        replace(name, "")?;
    }
    replace("metrics/metrics.go", &metrics.to_string_lossy())?;
    let overlay = work.join("overlay.json");
    fs::write(&overlay, serde_json::json!({ "Replace": instead }).to_string())?;
    let compiler = root.join("usr/lib/go");
    let built = work.join("translator");
    output(
        Command::new("setpriv")
            // All processes end if this process is killed; leftovers would disturb the next build.
            .args(["--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child"])
            .args(["nice", "-n", "19"])
            .arg(compiler.join("bin/go"))
            // The program is compiled once and runs for seconds, so compile time matters more than
            // speed.
            .args(["build", "-gcflags=all=-N -l", "-ldflags=-s -w", "-trimpath", "-overlay"])
            .arg(&overlay)
            .arg("-o")
            .arg(&built)
            .current_dir(&sources)
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", work)
            .env("TMPDIR", work)
            .env("GOROOT", &compiler)
            .env("GOPATH", &path)
            .env("GOCACHE", work.join("cache"))
            .env("GO111MODULE", "off")
            .env("GOTOOLCHAIN", "local")
            .env("CGO_ENABLED", "0"),
    )
    .context("failed to build the translator: did the libraries change?")?;
    Ok(built)
}
