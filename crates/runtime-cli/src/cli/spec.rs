//! Options shared by `create` and `run`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{ArgAction, Args};
use runtime_core::{ContainerSpec, Gpus, Image, Interactive, Mount};

use crate::units;

/// Container options, named as in Docker's CLI.
#[derive(Debug, Args)]
pub(crate) struct SpecArguments {
    /// The container's name [default: random]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Keeps standard input open
    #[arg(long, short)]
    pub(crate) interactive: bool,
    /// Allocates a terminal
    #[arg(long, short)]
    pub(crate) tty: bool,
    /// Sets a variable; without a value, takes it from the environment of this process, and removes
    /// it if unset there
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// A file with one variable per line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// A label
    #[arg(long, short, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Mounts a directory or file of the host
    #[arg(long, short, value_name = "HOST:CONTAINER[:ro]")]
    volume: Vec<String>,
    /// Publishes a TCP port on a free port of the host, which `ps` and `inspect` show
    #[arg(long, short, value_name = "PORT")]
    publish: Vec<String>,
    /// The limit on memory, such as 512m
    #[arg(long, short, value_name = "BYTES")]
    memory: Option<String>,
    /// The size of /dev/shm
    #[arg(long, value_name = "BYTES")]
    shm_size: Option<String>,
    /// The limit on CPUs, such as 0.5
    #[arg(long)]
    cpus: Option<f64>,
    /// The CPU weight relative to other containers, 1024 by default. On Kubernetes this requires
    /// `cpu_shares` in the configuration file
    #[arg(long, short)]
    cpu_shares: Option<u64>,
    /// GPUs: a count, or device=ID,ID. `all` is not supported, because engines do not report their
    /// GPUs. On Kubernetes this is a count and requires `gpu_resource` in the configuration file
    #[arg(long)]
    gpus: Option<String>,
    /// The user, or user:group
    #[arg(long, short)]
    user: Option<String>,
    /// An additional group
    #[arg(long)]
    group_add: Vec<String>,
    /// The working directory of the command
    #[arg(long, short, value_name = "DIRECTORY")]
    workdir: Option<String>,
    /// The host name in the container
    #[arg(long, short = 'h', short_alias = 'H')]
    hostname: Option<String>,
    /// Replaces the executable of the image. An empty value clears it: the command is run as given
    #[arg(long)]
    entrypoint: Option<String>,
    /// The signal that stops the container
    #[arg(long)]
    stop_signal: Option<String>,
    /// Seconds that a stop may take before the container is killed
    #[arg(long, value_name = "SECONDS")]
    stop_timeout: Option<f64>,
    /// When to pull the image: always, missing or never
    #[arg(long, default_value = "missing")]
    pull: String,
    /// Hides the progress of the pull
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// Prints help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    /// The image, then the command and its arguments, which replace those of the image: everything
    /// after the image belongs to the command
    #[arg(
        required = true,
        num_args = 1..,
        trailing_var_arg = true,
        value_names = ["IMAGE", "COMMAND"]
    )]
    words: Vec<String>,
}

impl SpecArguments {
    /// Returns the container spec.
    pub(crate) fn spec(&self) -> Result<ContainerSpec> {
        let (image, words) = self.words.split_first().context("no image is named")?;
        let mut spec = ContainerSpec::new(Image::new(image));
        spec.name.clone_from(&self.name);
        spec.pull_policy = self.pull.parse()?;
        let given = Some(words.to_vec()).filter(|words| !words.is_empty());
        match self.entrypoint.as_deref() {
            None => spec.arguments = given,
            // An empty entrypoint clears the image's entrypoint and arguments, as in Docker.
            Some("") if given.is_none() => {
                bail!(
                    "--entrypoint \"\" leaves nothing to run: a command is required after the image"
                )
            }
            Some("") => spec.command = given,
            Some(path) => (spec.command, spec.arguments) = (Some(vec![path.to_owned()]), given),
        }
        spec.interactive = match (self.interactive, self.tty) {
            (_, true) => Interactive::Terminal,
            (true, false) => Interactive::Stdin,
            (false, false) => Interactive::No,
        };
        for file in &self.env_file {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("failed to read {}", file.display()))?;
            let lines = text.lines().map(str::trim_start);
            for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
                // As in Docker, a name without a value that is unset in this environment is
                // skipped.
                if let (name, Some(value)) = variable(line) {
                    spec = spec.env(name, value);
                }
            }
        }
        for text in &self.env {
            spec = match variable(text) {
                (name, Some(value)) => spec.env(name, value),
                (name, None) => spec.unset_env(name),
            };
        }
        for label in &self.label {
            let (key, value) = label.split_once('=').unwrap_or((label, ""));
            spec.labels.insert(key.to_owned(), value.to_owned());
        }
        spec.mounts = self.volume.iter().map(|text| mount(text)).collect::<Result<_>>()?;
        spec.tcp_ports = self.publish.iter().map(|text| port(text)).collect::<Result<_>>()?;
        spec.memory = self.memory.as_deref().map(units::size).transpose()?;
        spec.shared_memory = self.shm_size.as_deref().map(units::size).transpose()?;
        spec.cpu_count = self.cpus;
        spec.cpu_shares = self.cpu_shares;
        spec.gpus = self.gpus.as_deref().map(gpus).transpose()?.unwrap_or_default();
        spec.user.clone_from(&self.user);
        spec.groups.clone_from(&self.group_add);
        spec.working_dir.clone_from(&self.workdir);
        spec.hostname.clone_from(&self.hostname);
        spec.stop_signal = self.stop_signal.as_deref().map(str::parse).transpose()?;
        let grace = |seconds| std::time::Duration::try_from_secs_f64(seconds);
        spec.stop_grace = self.stop_timeout.map(grace).transpose().context("--stop-timeout")?;
        Ok(spec)
    }
}

/// Parses a variable. A name without a value takes its value from this process's environment;
/// `None` means that the variable is removed.
pub(crate) fn variable(text: &str) -> (String, Option<String>) {
    match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (text.to_owned(), std::env::var(text).ok()),
    }
}

fn mount(text: &str) -> Result<Mount> {
    // As in Docker, the short form does not support colons in paths.
    let parts: Vec<_> = text.split(':').collect();
    let (source, target, read_only) = match parts[..] {
        [source, target] | [source, target, "rw"] => (source, target, false),
        [source, target, "ro"] => (source, target, true),
        _ => bail!("{text:?} is not a mount such as /host/dir:/dir or /host/dir:/dir:ro"),
    };
    let path = Path::new(source);
    let source = match path.is_absolute() {
        true => path.to_owned(),
        false if source.starts_with('.') => std::path::absolute(path)?,
        false => bail!("{text:?}: {source:?} is not a path; named volumes are not supported"),
    };
    Ok(if read_only { Mount::read_only(source, target) } else { Mount::new(source, target) })
}

fn port(text: &str) -> Result<u16> {
    let number = text.strip_suffix("/tcp").unwrap_or(text);
    if number.contains(':') {
        bail!(
            "{text:?}: ports are published on a free port of the host; give the container's only"
        );
    }
    number.parse().with_context(|| format!("{text:?} is not a TCP port"))
}

fn gpus(text: &str) -> Result<Gpus> {
    let text = text.trim_matches('"');
    if let Some(ids) = text.strip_prefix("device=") {
        return Ok(Gpus::Ids(ids.split(',').map(str::to_owned).collect()));
    }
    let count = text.strip_prefix("count=").unwrap_or(text);
    match count.parse() {
        Ok(count) => Ok(Gpus::Count(count)),
        Err(_) if count == "all" => {
            bail!("--gpus all is not supported: use a number of GPUs, or device=ID,ID")
        }
        Err(_) => bail!("{text:?} is neither a number of GPUs nor device=ID,ID"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use runtime_core::{MountAccess, PullPolicy};

    use super::*;
    use crate::cli::{Cli, Command};

    fn spec(line: &str) -> Result<ContainerSpec> {
        let words = ["runtime", "run"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words)?.command {
            Command::Run(run) => run.spec.spec(),
            _ => bail!("another command"),
        }
    }

    #[test]
    fn docker_options_are_parsed() {
        let spec = spec(
            "-it --rm --name n -e A=1 -e B=x=y -l k=v -l bare -v /a:/b:ro -v /c:/d -p 80 -m 512m \
             --shm-size 1g --cpus 1.5 -c 512 --gpus device=0,1 -u 1:2 --group-add 3 -w /w -H h \
             --entrypoint /e --stop-signal INT --stop-timeout 3 --pull always image:1 sh -c -x",
        )
        .unwrap();
        assert_eq!(spec.name.as_deref(), Some("n"));
        assert_eq!(spec.interactive, Interactive::Terminal);
        let env: Vec<_> = spec.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(env, [("A", "1"), ("B", "x=y")]);
        assert_eq!(spec.user.as_deref(), Some("1:2"));
        assert_eq!(spec.groups, ["3"]);
        assert_eq!(spec.working_dir.as_deref(), Some("/w"));
        assert_eq!(spec.hostname.as_deref(), Some("h"));
        assert_eq!(spec.stop_grace, Some(std::time::Duration::from_secs(3)));
        assert_eq!((spec.labels["k"].as_str(), spec.labels["bare"].as_str()), ("v", ""));
        assert_eq!(spec.mounts[0].access, MountAccess::ReadOnly);
        assert_eq!(spec.mounts[1].access, MountAccess::ReadWrite);
        assert_eq!(spec.mounts[1].target, "/d");
        assert_eq!(spec.tcp_ports, [80]);
        assert_eq!((spec.memory, spec.shared_memory), (Some(512 << 20), Some(1 << 30)));
        assert_eq!((spec.cpu_count, spec.cpu_shares), (Some(1.5), Some(512)));
        assert_eq!(spec.gpus, Gpus::Ids(vec!["0".into(), "1".into()]));
        assert_eq!(spec.command, Some(vec!["/e".into()]));
        assert_eq!(spec.arguments, Some(vec!["sh".into(), "-c".into(), "-x".into()]));
        assert_eq!(spec.stop_signal, Some(runtime_core::Signal::INT));
        assert_eq!(spec.pull_policy, PullPolicy::Always);
        assert_eq!(spec.image.reference, "image:1");
    }

    #[test]
    fn arguments_after_image_belong_to_command() {
        for (line, image, words) in [
            ("img", "img", ""),
            ("img -v x", "img", "-v x"),
            ("img --name y", "img", "--name y"),
            ("img --help", "img", "--help"),
            ("img -B x --scope y", "img", "-B x --scope y"),
            ("-it img sh -c 'x'", "img", "sh -c 'x'"),
            ("-e A=b img -e sh -e C=d", "img", "-e sh -e C=d"),
            ("-- img sh", "img", "sh"),
            ("img -- sh", "img", "-- sh"),
            ("img sh -- -x", "img", "sh -- -x"),
        ] {
            let spec = spec(line).unwrap();
            assert_eq!((spec.image.reference.as_str(), spec.mounts.len()), (image, 0), "{line}");
            assert_eq!(spec.arguments.unwrap_or_default().join(" "), words, "{line}");
            assert_eq!((spec.command, spec.name), (None, None), "{line}");
        }
        let error = Cli::try_parse_from(["runtime", "run", "--nme", "x", "img"]).unwrap_err();
        assert_eq!(error.kind(), clap::error::ErrorKind::UnknownArgument);
    }

    #[test]
    fn empty_entrypoint_makes_arguments_the_command() {
        let spec = spec("--entrypoint= image sh -c x").unwrap();
        assert_eq!(spec.command, Some(vec!["sh".into(), "-c".into(), "x".into()]));
        assert_eq!(spec.arguments, None);
    }

    #[test]
    fn invalid_option_is_named_in_error() {
        for (line, word) in [
            ("-v /a image", "mount"),
            ("-v name:/b image", "named volumes"),
            ("-p 80:80 image", "free port"),
            ("-p x image", "TCP port"),
            ("-m much image", "size"),
            ("--gpus all image", "not supported"),
            ("--gpus some image", "neither"),
            ("--pull maybe image", "maybe"),
            ("--stop-signal NONE image", "NONE"),
            ("--stop-timeout=-1 image", "stop-timeout"),
            ("--entrypoint= image", "nothing to run"),
            ("", "IMAGE"),
            ("--", "IMAGE"),
        ] {
            let error = format!("{:#}", spec(line).unwrap_err());
            assert!(error.contains(word), "{line}: {error}");
        }
    }
}
