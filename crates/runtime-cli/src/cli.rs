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

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The backend: docker, cri, k8s, or a URL: docker://HOST:PORT, docker:///SOCKET,
    /// unix:///SOCKET, tcp://HOST:PORT, cri:///SOCKET, k8s://CONTEXT/NAMESPACE
    #[arg(long, short = 'B', global = true, env = "RUNTIME_BACKEND", value_name = "BACKEND|URL")]
    pub(crate) backend: Option<String>,
    /// The scope of the containers that are created and listed [default: runtime]
    #[arg(long, global = true, env = "RUNTIME_SCOPE")]
    pub(crate) scope: Option<String>,
    /// The configuration file [default: runtime/config.toml in the user's configuration directory]
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
    /// Shows all details of containers as JSON
    Inspect(Inspect),
    /// Shows the output of a container
    Logs(Logs),
    /// Runs a command in a running container
    Exec(Exec),
    /// Connects to the main process of a container
    Attach(Attach),
    /// Shows the resource usage of containers
    Stats(Stats),
    /// Shows the resource usage of containers, busiest first, or the processes of one container
    Top(Top),
    /// Stops containers
    Stop(Stop),
    /// Sends a signal to the main processes of containers
    Kill(Kill),
    /// Removes containers
    Rm(Rm),
    /// Waits until containers exit and prints their exit codes
    Wait(Wait),
    /// Pulls an image
    Pull(Pull),
    /// Copies files between a container and this machine
    Cp(Cp),
    /// Shows the events of containers
    Events(Events),
    /// Removes leftover containers
    Reap(Reap),
    /// Shows the engine and its capabilities
    Info(Info),
    /// Prints the completions of a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Prints the manual page, in the format of man(7)
    #[command(hide = true)]
    Man {
        /// Writes one page per command into this directory, which is created, instead of printing
        #[arg(value_hint = ValueHint::DirPath)]
        directory: Option<PathBuf>,
    },
}

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(
    override_usage = "runtime run [OPTIONS] IMAGE [COMMAND] [ARG...]",
    disable_help_flag = true
)]
pub(crate) struct Run {
    /// Runs the container in the background and prints its id
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Removes the container after its exit. Has no effect with --detach: unlike with Docker's CLI,
    /// the container stays until `rm` or `reap`
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
    /// Shows the output until the container exits, and exits with its exit code
    #[arg(long, short)]
    pub(crate) attach: bool,
    /// Passes standard input to the container, too
    #[arg(long, short)]
    pub(crate) interactive: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

/// Arguments of `ps`.
#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Includes containers that are not running
    #[arg(long, short)]
    pub(crate) all: bool,
    /// Lists only containers that match KEY=VALUE: label=KEY[=VALUE], name=PART (a leading ^
    /// anchors at the start, a trailing $ at the end), id=PREFIX, status=created, running or
    /// exited, ancestor=IMAGE
    #[arg(long, short, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// json, table, or a template such as '{{.ID}} {{.Name}}'
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Prints ids only
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// Prints values in full
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
    /// Waits for more output until the container exits
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Shows only the last LINES lines, or `all`
    #[arg(long, short = 'n', value_name = "LINES")]
    pub(crate) tail: Option<String>,
    /// Shows only output since a time (2026-01-02T03:04:05Z), Unix seconds, or a duration ago (10m)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Shows the time of each line
    #[arg(long, short)]
    pub(crate) timestamps: bool,
    /// json prints one record per line
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Name or id
    pub(crate) container: String,
}

/// Arguments of `exec`.
#[derive(Debug, Args)]
#[command(override_usage = "runtime exec [OPTIONS] CONTAINER COMMAND [ARG...]")]
pub(crate) struct Exec {
    /// Passes standard input to the command
    #[arg(long, short)]
    pub(crate) interactive: bool,
    /// Allocates a terminal
    #[arg(long, short)]
    pub(crate) tty: bool,
    /// Sets a variable; without a value, takes it from the environment of this process, and removes
    /// it if unset there
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Runs as this user, or user:group
    #[arg(long, short)]
    pub(crate) user: Option<String>,
    /// Runs in this directory
    #[arg(long, short, value_name = "DIRECTORY")]
    pub(crate) workdir: Option<String>,
    /// Sets variables and the directory with the image's env and sh if the engine cannot
    #[arg(long)]
    pub(crate) image_tools: bool,
    /// Name or id of the container, then the command and its arguments: everything after the
    /// container belongs to the command
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
    /// Does not pass standard input
    #[arg(long)]
    pub(crate) no_stdin: bool,
    /// Forwards signals to the container
    #[arg(long = "sig-proxy", default_value_t = true, action = ArgAction::Set)]
    pub(crate) sig_proxy: bool,
    /// Name or id
    pub(crate) container: String,
}

/// Arguments of `stats`.
#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// Takes one sample
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// json, table, or a template such as '{{.Name}} {{.MemUsage}}'
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Names or ids; all running containers by default
    #[arg(value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

/// Arguments of `top`.
#[derive(Debug, Args)]
#[command(override_usage = "runtime top [OPTIONS] [CONTAINER [PS OPTIONS]]")]
pub(crate) struct Top {
    /// Shows the table of all containers once
    #[arg(long, conflicts_with = "words")]
    pub(crate) no_stream: bool,
    /// Name or id of a container, whose processes are listed with the `ps` of its image. Everything
    /// after it is passed to that `ps`
    #[arg(num_args = 1.., trailing_var_arg = true, value_names = ["CONTAINER", "OPTION"])]
    pub(crate) words: Vec<String>,
}

/// Arguments of `stop`.
#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// Seconds before the container is killed [default: as set at creation]
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
    /// Kills and removes running containers, too; a missing container is not an error
    #[arg(long, short)]
    pub(crate) force: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

/// Arguments of `wait`.
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// json prints the details of each exit
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
    /// Shows events since a time, Unix seconds, or a duration ago (10m)
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
    /// Removes only containers of at least this age: 90s, 10m, 2h
    #[arg(long, default_value = "0s", value_name = "AGE")]
    pub(crate) older_than: String,
    /// Only containers with this label
    #[arg(long, value_name = "label=KEY[=VALUE]")]
    pub(crate) filter: Vec<String>,
    /// Does not prompt for confirmation
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

/// Commands whose usage errors have the exit code of their other failures, as in Docker's CLI.
const COMMANDS_WITH_CODE: [&str; 3] = ["run", "create", "exec"];

impl Cli {
    /// Parses the command line.
    ///
    /// # Errors
    /// A usage error, or a request for help or the version, with the exit code.
    pub(crate) fn parse_arguments(words: &[OsString]) -> Result<Self, (clap::Error, u8)> {
        let mut error = match Self::try_parse_from(words) {
            Ok(cli) => return Ok(cli),
            Err(error) => error,
        };
        // clap suggests passing an unknown option after `--`, which would make it the image.
        error.remove(ContextKind::Suggested);
        let code = match error.use_stderr() {
            false => 0,
            true if has_own_code(words) => FAILED,
            true => 2,
        };
        Err((error, code))
    }
}

/// Returns true if this command line, which may be invalid, is one of [`COMMANDS_WITH_CODE`].
fn has_own_code(words: &[OsString]) -> bool {
    let parsed = Cli::command().ignore_errors(true).try_get_matches_from(words);
    parsed.is_ok_and(|parsed| {
        parsed.subcommand_name().is_some_and(|name| COMMANDS_WITH_CODE.contains(&name))
    })
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
    fn exec_arguments_after_container_belong_to_command() {
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
    fn usage_error_has_exit_code_of_docker() {
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
            let (error, found) = Cli::parse_arguments(&words).unwrap_err();
            assert_eq!(found, code, "{line}: {error}");
            assert!(!error.to_string().contains("use '--"), "{line}: {error}");
        }
    }

    #[test]
    fn run_short_h_sets_hostname() {
        for line in ["run -h box image", "run -hbox image", "run --hostname box image"] {
            let Ok(Command::Run(run)) = parse(line) else { panic!("{line}") };
            assert_eq!(run.spec.spec().unwrap().hostname.as_deref(), Some("box"), "{line}");
        }
        let Ok(Command::Create(create)) = parse("create -h box image") else { panic!() };
        assert_eq!(create.spec.spec().unwrap().hostname.as_deref(), Some("box"));
        assert!(parse("run -h").is_err_and(|error| error.use_stderr()));
    }

    #[test]
    fn top_arguments_after_container_belong_to_ps() {
        let Ok(Command::Top(top)) = parse("top c -o pid --no-stream") else { panic!() };
        assert_eq!((top.words.join(" ").as_str(), top.no_stream), ("c -o pid --no-stream", false));
        let Ok(Command::Top(top)) = parse("top --no-stream") else { panic!() };
        assert!(top.words.is_empty() && top.no_stream);
        let error = parse("top --no-stream c").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ArgumentConflict);
    }

    #[test]
    fn command_definition_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
