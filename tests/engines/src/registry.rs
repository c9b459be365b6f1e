//! A registry on loopback that requires a password for pull and push.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ureq::http::Response;
use ureq::{Agent, Body};

use crate::image::{self, Image, MANIFEST};
use crate::instance::{InstanceContext, Plan, State};
use crate::site::Site;
use crate::{catalog, net, packages, rootfs};

/// `host:port`, the prefix of image names.
pub(crate) const ADDRESS: &str = "RUNTIME_TEST_REGISTRY";
pub(crate) const USER: &str = "RUNTIME_TEST_REGISTRY_USER";
pub(crate) const PASSWORD: &str = "RUNTIME_TEST_REGISTRY_PASSWORD";

const LOG_NAME: &str = "registry";

pub(crate) fn install() -> Result<()> {
    packages::ensure(LOG_NAME, &["docker-registry", "apache2-utils"])
}

pub(crate) fn plan(context: &InstanceContext<'_>) -> Result<Plan> {
    let address = format!("127.0.0.1:{}", net::stable_port(context.site)?);
    let (user, password) = ("tester", secret()?);
    let users = context.dir.join("htpasswd");
    fs::write(&users, htpasswd(user, &password)?)?;
    let config = context.dir.join("config.yml");
    fs::write(
        &config,
        format!(
            "version: 0.1\n\
             log:\n  level: warn\n  accesslog:\n    disabled: true\n\
             storage:\n  filesystem:\n    rootdirectory: {data:?}\n  delete:\n    enabled: true\n\
             http:\n  addr: {address}\n  secret: {secret}\n\
             auth:\n  htpasswd:\n    realm: test\n    path: {users:?}\n",
            data = context.dir.join("data"),
            secret = secret()?,
        ),
    )?;
    Ok(Plan {
        root: None,
        make_bridge: false,
        command: vec![
            "/usr/bin/docker-registry".to_owned(),
            "serve".to_owned(),
            config.to_string_lossy().into_owned(),
        ],
        environment: Vec::new(),
        socket: None,
        values: BTreeMap::from([
            (ADDRESS.to_owned(), address),
            (USER.to_owned(), user.to_owned()),
            (PASSWORD.to_owned(), password),
        ]),
    })
}

/// Returns the address of the site's registry, which must be up.
pub(crate) fn address(site: &Site) -> Result<String> {
    let state = crate::instance::known(site, crate::Engine::Registry)?;
    let address = state.values.get(ADDRESS);
    address.cloned().context("the record has no address")
}

/// Returns random letters.
fn secret() -> Result<String> {
    let mut bytes = [0; 12];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn htpasswd(user: &str, password: &str) -> Result<Vec<u8>> {
    let mut child = Command::new("htpasswd")
        .args(["-niB", user])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("failed to run htpasswd")?;
    std::io::Write::write_all(
        &mut child.stdin.take().context("htpasswd has no stdin")?,
        password.as_bytes(),
    )?;
    let done = child.wait_with_output()?;
    anyhow::ensure!(done.status.success(), "htpasswd failed");
    Ok(done.stdout)
}

pub(crate) fn probe(state: &State) -> Result<String> {
    let client = Client::of(state)?;
    let status = client
        .agent
        .get(client.url(""))
        .header("Authorization", &client.authorization)
        .call()?
        .status();
    anyhow::ensure!(status == 200, "the registry returned status {status}");
    let printed = crate::process::run("docker-registry", &["--version"])?;
    let version = printed.split_ascii_whitespace().last().unwrap_or("?");
    Ok(version.trim_start_matches('v').split('+').next().unwrap_or("?").to_owned())
}

/// Pushes the test images.
pub(crate) fn fill(context: &InstanceContext<'_>, state: &State) -> Result<()> {
    let client = Client::of(state)?;
    let busybox = packages::busybox(LOG_NAME, &rootfs::cache()?)?;
    crate::log_progress(LOG_NAME, "building and pushing the test images");
    for (name, image) in catalog::all(&busybox)? {
        let (repository, tag) = name.split_once(':').context("an image without a tag")?;
        client.push(repository, tag, &image)?;
        fs::write(
            image_archive(context.site, repository),
            image.archive(&format!("{}/{name}", client.address))?,
        )?;
    }
    Ok(())
}

/// Pushes a small image with a unique layer, which was never pulled.
///
/// Returns its name, `host:port/repository:tag`.
///
/// # Errors
/// If the registry is not up or refuses the image.
pub fn push_unique_image(site: &Site, repository: &str, tag: &str) -> Result<String> {
    let state = crate::instance::known(site, crate::Engine::Registry)?;
    let client = Client::of(&state)?;
    let busybox = packages::busybox(LOG_NAME, &rootfs::cache()?)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    let seed = u64::try_from(now & u128::from(u64::MAX))? ^ u64::from(std::process::id());
    client.push(repository, tag, &catalog::unique(&busybox, seed)?)?;
    Ok(format!("{}/{repository}:{tag}", client.address))
}

/// Returns the archive of a test image, for engines that load it without a registry. `name` is the
/// repository, as in `test/busybox`; the registry must be up.
#[must_use]
pub fn image_archive(site: &Site, name: &str) -> PathBuf {
    site.dir(LOG_NAME).join(format!("{}.tar", name.replace('/', "-")))
}

/// Client of the registry's API.
#[derive(Debug)]
struct Client {
    agent: Agent,
    address: String,
    authorization: String,
}

impl Client {
    fn of(state: &State) -> Result<Self> {
        let value = |name: &str| state.values.get(name).context("the record is incomplete");
        let login = format!("{}:{}", value(USER)?, value(PASSWORD)?);
        Ok(Self {
            agent: Agent::config_builder()
                .http_status_as_error(false)
                .timeout_global(Some(Duration::from_secs(60)))
                // The registry is on this machine and needs no proxy.
                .proxy(None)
                .build()
                .new_agent(),
            address: value(ADDRESS)?.clone(),
            authorization: format!("Basic {}", STANDARD.encode(login)),
        })
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/v2/{path}", self.address)
    }

    fn push(&self, repository: &str, tag: &str, image: &Image) -> Result<()> {
        for layer in &image.layers {
            self.push_blob(repository, &layer.digest, &layer.blob)?;
        }
        self.push_blob(repository, &image.config_digest, &image.config)?;
        let url = self.url(&format!("{repository}/manifests/{tag}"));
        let answer = self
            .agent
            .put(url)
            .header("Authorization", &self.authorization)
            .header("Content-Type", MANIFEST)
            .send(&image.manifest[..])?;
        accepted(answer, "the manifest").map(drop)
    }

    fn push_blob(&self, repository: &str, digest: &str, blob: &[u8]) -> Result<()> {
        debug_assert_eq!(image::digest(blob), digest);
        let there = self
            .agent
            .head(self.url(&format!("{repository}/blobs/{digest}")))
            .header("Authorization", &self.authorization)
            .call()?;
        if there.status() == 200 {
            return Ok(());
        }
        let begun = self
            .agent
            .post(self.url(&format!("{repository}/blobs/uploads/")))
            .header("Authorization", &self.authorization)
            .send_empty()?;
        let begun = accepted(begun, "the upload")?;
        let location =
            begun.headers().get("Location").context("an upload without a location")?.to_str()?;
        let separator = if location.contains('?') { '&' } else { '?' };
        let done = self
            .agent
            .put(format!("{location}{separator}digest={digest}"))
            .header("Authorization", &self.authorization)
            .header("Content-Type", "application/octet-stream")
            .send(blob)?;
        accepted(done, "the blob").map(drop)
    }
}

fn accepted(mut answer: Response<Body>, what: &str) -> Result<Response<Body>> {
    if !answer.status().is_success() {
        let text = answer.body_mut().read_to_string().unwrap_or_default();
        anyhow::bail!("the registry refused {what}: {} {text}", answer.status());
    }
    Ok(answer)
}
