//! The command line.

mod spec;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ContextKind;
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueHint};
use clap_complete::Shell;

pub(crate) use self::spec::{SpecArguments, variable};
use crate::exit_code::FAILED;

/// Runs containers the same way on Docker, containerd or CRI-O, and Kubernetes.
#[derive(Debug, Parser)]
#[command(
    name = "runtime",
    version,
    disable_help_subcommand = true,
    after_help = "Without --backend, RUNTIME_BACKEND and a configuration file, the first engine \
                  that answers is used: docker, then cri, then k8s."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// docker, cri or k8s, or where it is: docker://HOST:PORT, docker:///SOCKET, unix:///SOCKET,
    /// tcp://HOST:PORT, cri:///SOCKET, k8s://CONTEXT/NAMESPACE
    #[arg(long, short = 'B', global = true, env = "RUNTIME_BACKEND", value_name = "BACKEND|URL")]
    pub(crate) backend: Option<String>,
    /// Whose containers are made and seen [default: runtime]
    #[arg(long, global = true, env = "RUNTIME_SCOPE")]
    pub(crate) scope: Option<String>,
    /// The configuration file [default: runtime/config.toml in the user's configuration folder]
    #[arg(long, global = true, env = "RUNTIME_CONFIG", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Creates a container, starts it, and shows its output until it ends
    Run(Run),
    /// Creates a container and prints its id
    Create(Create),
    /// Starts created containers
    Start(Start),
    /// Lists containers
    #[command(visible_alias = "ls")]
    Ps(Ps),
    /// Shows all that is known of containers, as JSON
    Inspect(Inspect),
    /// Shows what a container wrote
    Logs(Logs),
    /// Runs a command in a running container
    Exec(Exec),
    /// Connects to the main process of a container
    Attach(Attach),
    /// Shows what containers use
    Stats(Stats),
    /// Shows what containers use, the busiest first, or the processes of one container
    Top(Top),
    /// Stops containers
    Stop(Stop),
    /// Sends a signal to the main processes of containers
    Kill(Kill),
    /// Removes containers
    Rm(Rm),
    /// Waits for the end of containers and prints their exit codes
    Wait(Wait),
    /// Pulls an image
    Pull(Pull),
    /// Copies files between a container and this machine
    Cp(Cp),
    /// Shows what happens to containers
    Events(Events),
    /// Removes the containers that were left behind
    Reap(Reap),
    /// Shows the engine and what it can do
    Info(Info),
    /// Prints the completions of a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Prints the manual page, in the format of man(7)
    #[command(hide = true)]
    Man {
        /// Writes it into this folder instead, which is made, with a page for each command
        #[arg(value_hint = ValueHint::DirPath)]
        folder: Option<PathBuf>,
    },
}

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(
    override_usage = "runtime run [OPTIONS] IMAGE [COMMAND] [ARG...]",
    disable_help_flag = true
)]
pub(crate) struct Run {
    /// Lets it run, and prints its id
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Removes the container when it has ended. With --detach nobody waits for that: it stays, other
    /// than with Docker, until `rm` or `reap`
    #[arg(long)]
    pub(crate) rm: bool,
    #[command(flatten)]
    pub(crate) spec: SpecArguments,
}

/// Arguments of `create`.
#[derive(Debug, Args)]
#[command(
    override_usage = "runtime create [OPTIONS] IMAGE [COMMAND] [ARG...]",
    disable_help_flag = true
)]
pub(crate) struct Create {
    #[command(flatten)]
    pub(crate) spec: SpecArguments,
}

/// Arguments of `start`.
#[derive(Debug, Args)]
pub(crate) struct Start {
    /// Shows the output until the container ends, and exits with its code
    #[arg(long, short)]
    pub(crate) attach: bool,
    /// Gives it this command's input, too
    #[arg(long, short)]
    pub(crate) interactive: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

/// Arguments of `ps`.
#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Lists those that do not run, too
    #[arg(long, short)]
    pub(crate) all: bool,
    /// Only those with KEY=VALUE: label=KEY[=VALUE], name=PART (with ^ before it at the beginning,
    /// with $ after it at the end), id=BEGINNING, status=created, running or exited, ancestor=IMAGE
    #[arg(long, short, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// json, table, or a template such as '{{.ID}} {{.Name}}'
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Prints ids only
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// Cuts nothing short
    #[arg(long)]
    pub(crate) no_trunc: bool,
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// json, or a template such as '{{.Status}}'
    #[arg(long, short)]
    pub(crate) format: Option<String>,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Goes on until the container has ended
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only the last so many lines, or `all`
    #[arg(long, short = 'n', value_name = "LINES")]
    pub(crate) tail: Option<String>,
    /// Only what was written since: a time (2026-01-02T03:04:05Z), Unix seconds, or how long ago
    /// (10m)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Shows the time of each line
    #[arg(long, short)]
    pub(crate) timestamps: bool,
    /// json prints a record a line
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Name or id
    pub(crate) container: String,
}

/// Arguments of `exec`.
#[derive(Debug, Args)]
#[command(override_usage = "runtime exec [OPTIONS] CONTAINER COMMAND [ARG...]")]
pub(crate) struct Exec {
    /// Gives it this command's input
    #[arg(long, short)]
    pub(crate) interactive: bool,
    /// Gives it a terminal
    #[arg(long, short)]
    pub(crate) tty: bool,
    /// A variable; without a value, the one of this command's environment, and removed if unset there
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Runs as this user, or user:group
    #[arg(long, short)]
    pub(crate) user: Option<String>,
    /// Runs in this folder
    #[arg(long, short, value_name = "FOLDER")]
    pub(crate) workdir: Option<String>,
    /// Lets the image's env and sh set variables and the folder where the engine cannot
    #[arg(long)]
    pub(crate) image_tools: bool,
    /// Name or id of the container, then the command and its arguments: all that stands after the
    /// container is theirs
    #[arg(
        required = true,
        num_args = 2..,
        trailing_var_arg = true,
        value_names = ["CONTAINER", "COMMAND"]
    )]
    pub(crate) words: Vec<String>,
}

/// Arguments of `attach`.
#[derive(Debug, Args)]
pub(crate) struct Attach {
    /// Gives it no input
    #[arg(long)]
    pub(crate) no_stdin: bool,
    /// Passes signals on to the container
    #[arg(long = "sig-proxy", default_value_t = true, action = ArgAction::Set)]
    pub(crate) sig_proxy: bool,
    /// Name or id
    pub(crate) container: String,
}

/// Arguments of `stats`.
#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// Measures once
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// json, table, or a template such as '{{.Name}} {{.MemUsage}}'
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Names or ids; all that run where there is none
    #[arg(value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

/// Arguments of `top`.
#[derive(Debug, Args)]
#[command(override_usage = "runtime top [OPTIONS] [CONTAINER [PS OPTIONS]]")]
pub(crate) struct Top {
    /// Shows the table of all once
    #[arg(long, conflicts_with = "words")]
    pub(crate) no_stream: bool,
    /// Name or id: the processes of this one, as the `ps` of its image shows them. What stands after
    /// it are options of that `ps`
    #[arg(num_args = 1.., trailing_var_arg = true, value_names = ["CONTAINER", "OPTION"])]
    pub(crate) words: Vec<String>,
}

/// Arguments of `stop`.
#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// How long it may take before it is killed, in seconds [default: as it was created]
    #[arg(long, short, alias = "timeout", value_name = "SECONDS")]
    pub(crate) time: Option<f64>,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

/// Arguments of `kill`.
#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// The signal, by name or number
    #[arg(long, short, default_value = "KILL")]
    pub(crate) signal: String,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

/// Arguments of `rm`.
#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// Kills and removes those that run, too; one that is not there is no error
    #[arg(long, short)]
    pub(crate) force: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

/// Arguments of `wait`.
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// json prints how each ended
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

/// Arguments of `pull`.
#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// Shows no progress
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// always, missing or never
    #[arg(long, default_value = "always")]
    pub(crate) policy: String,
    /// The image
    pub(crate) image: String,
}

/// Arguments of `cp`.
#[derive(Debug, Args)]
pub(crate) struct Cp {
    /// CONTAINER:PATH, a path, or `-` for a tar stream from standard input
    pub(crate) source: String,
    /// CONTAINER:PATH, a path, or `-` for a tar stream to standard output
    pub(crate) target: String,
}

/// Arguments of `events`.
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// What happened since: a time, Unix seconds, or how long ago (10m)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Only containers with this label
    #[arg(long, short, value_name = "label=KEY[=VALUE]")]
    pub(crate) filter: Vec<String>,
    /// json, or a template
    #[arg(long)]
    pub(crate) format: Option<String>,
}

/// Arguments of `reap`.
#[derive(Debug, Args)]
pub(crate) struct Reap {
    /// Only what was created at least so long ago: 90s, 10m, 2h
    #[arg(long, default_value = "0s", value_name = "AGE")]
    pub(crate) older_than: String,
    /// Only containers with this label
    #[arg(long, value_name = "label=KEY[=VALUE]")]
    pub(crate) filter: Vec<String>,
    /// Does not ask
    #[arg(long, short)]
    pub(crate) force: bool,
}

/// Arguments of `info`.
#[derive(Debug, Args)]
pub(crate) struct Info {
    /// json, or a template such as '{{.Version}}'
    #[arg(long, short)]
    pub(crate) format: Option<String>,
}

/// Commands whose usage errors have the exit code of their other failures, as with Docker.
const CODED: [&str; 3] = ["run", "create", "exec"];

impl Cli {
    /// Parses the command line.
    ///
    /// # Errors
    /// A usage error, or a request for help or the version, with the exit code.
    pub(crate) fn of(words: &[OsString]) -> Result<Self, (clap::Error, u8)> {
        let mut error = match Self::try_parse_from(words) {
            Ok(cli) => return Ok(cli),
            Err(error) => error,
        };
        // clap suggests to pass an unknown option after `--`, where it would be the image.
        error.remove(ContextKind::Suggested);
        let code = match error.use_stderr() {
            false => 0,
            true if is_coded(words) => FAILED,
            true => 2,
        };
        Err((error, code))
    }
}

/// Reports whether this command line, which need not be valid, is one of [`CODED`].
fn is_coded(words: &[OsString]) -> bool {
    let parsed = Cli::command().ignore_errors(true).try_get_matches_from(words);
    parsed.is_ok_and(|parsed| parsed.subcommand_name().is_some_and(|name| CODED.contains(&name)))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser, error::ErrorKind};

    use super::{Cli, Command, FAILED};

    fn parse(line: &str) -> Result<Command, clap::Error> {
        let words = ["runtime"].into_iter().chain(line.split_whitespace());
        Ok(Cli::try_parse_from(words)?.command)
    }

    #[test]
    fn what_stands_after_the_container_is_the_commands() {
        for (line, words, user) in [
            ("exec c -u x", "c -u x", None),
            ("exec -it c sh", "c sh", None),
            ("exec -u 7 c sh -u x --help", "c sh -u x --help", Some("7")),
            ("exec -- c sh", "c sh", None),
            ("exec c -- sh", "c -- sh", None),
        ] {
            let Ok(Command::Exec(exec)) = parse(line) else { panic!("{line}") };
            assert_eq!((exec.words.join(" ").as_str(), exec.user.as_deref()), (words, user));
        }
        for line in ["exec", "exec c", "exec -u x c"] {
            let error = parse(line).unwrap_err();
            assert!(error.to_string().contains("COMMAND"), "{line}: {error}");
        }
    }

    #[test]
    fn usage_errors_have_the_exit_code_of_docker() {
        for (line, code) in [
            ("run", FAILED),
            ("run --nme x image", FAILED),
            ("-B docker --scope x run --network host image", FAILED),
            ("run --cpus many image", FAILED),
            ("create --nme x image", FAILED),
            ("exec", FAILED),
            ("exec c", FAILED),
            ("exec --nme c sh", FAILED),
            ("exec -h", 0),
            ("run --help", 0),
            ("create --help", 0),
            ("--version", 0),
            ("--nme run image", 2),
            ("ps --nme", 2),
            ("run-away", 2),
        ] {
            let words: Vec<_> =
                ["runtime"].into_iter().chain(line.split_whitespace()).map(Into::into).collect();
            let (error, found) = Cli::of(&words).unwrap_err();
            assert_eq!(found, code, "{line}: {error}");
            assert!(!error.to_string().contains("use '--"), "{line}: {error}");
        }
    }

    #[test]
    fn h_is_the_host_name_where_docker_has_it() {
        for line in ["run -h box image", "run -hbox image", "run --hostname box image"] {
            let Ok(Command::Run(run)) = parse(line) else { panic!("{line}") };
            assert_eq!(run.spec.spec().unwrap().hostname.as_deref(), Some("box"), "{line}");
        }
        let Ok(Command::Create(create)) = parse("create -h box image") else { panic!() };
        assert_eq!(create.spec.spec().unwrap().hostname.as_deref(), Some("box"));
        assert!(parse("run -h").is_err_and(|error| error.use_stderr()));
    }

    #[test]
    fn the_options_of_ps_are_not_ours() {
        let Ok(Command::Top(top)) = parse("top c -o pid --no-stream") else { panic!() };
        assert_eq!((top.words.join(" ").as_str(), top.no_stream), ("c -o pid --no-stream", false));
        let Ok(Command::Top(top)) = parse("top --no-stream") else { panic!() };
        assert!(top.words.is_empty() && top.no_stream);
        let error = parse("top --no-stream c").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ArgumentConflict);
    }

    #[test]
    fn the_options_do_not_contradict_each_other() {
        super::Cli::command().debug_assert();
    }
}
