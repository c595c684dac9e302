//! The command line of `wherry-E`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args as Group, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

/// Runs and compiles WebAssembly without containerd, and manages the cache of compiled code.
#[derive(Debug, Parser)]
#[command(arg_required_else_help = true, disable_version_flag = true)]
pub(crate) struct Args {
    /// Print the version.
    #[arg(short = 'v', short_alias = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a module or component. It sees only what the options give it.
    #[command(after_help = "\
Examples:
  run hello.wasm
  run --dir ./data::/data --env LEVEL=debug app.wasm --verbose
  run library.wat#main")]
    Run(Run),
    /// Compile the modules of an image, or one file, before a container needs them.
    #[command(after_help = "\
Examples:
  compile app.wasm
  compile registry.example.com/app:1.0
  compile --namespace k8s.io --platform wasi/wasm registry.example.com/app:1.0")]
    Compile(Compile),
    /// Compile the modules of each new image of containerd, with the lowest priority, until it is
    /// ended.
    #[cfg(feature = "watch")]
    #[command(after_help = "\
Examples:
  watch
  watch --existing --namespace k8s.io --address /run/k3s/containerd/containerd.sock")]
    Watch(Watch),
    /// List or remove compiled code.
    #[command(subcommand)]
    Cache(Cache),
    /// Print the versions of this program and of the engine.
    #[command(after_help = "Example:\n  version --json")]
    Version {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print a completion script for a shell.
    #[command(after_help = "Example:\n  completions bash > /etc/bash_completion.d/wherry")]
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write the man pages of all commands to a directory.
    #[command(after_help = "Example:\n  man /usr/local/share/man/man1")]
    Man {
        /// The directory, which must exist.
        directory: PathBuf,
    },
}

/// The options of `run`.
#[derive(Debug, Group)]
pub(crate) struct Run {
    /// Set a variable of the guest's environment.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    /// Give the guest a directory, under the same or another path.
    #[arg(long, value_name = "HOST[::GUEST]")]
    pub(crate) dir: Vec<String>,
    /// Set the guest's working directory.
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) cwd: PathBuf,
    /// Give the guest the network of this process.
    #[arg(long)]
    pub(crate) net: bool,
    /// Load the engine's plug-ins from this file or directory.
    #[arg(long, value_name = "PATH")]
    pub(crate) plugins: Option<PathBuf>,
    /// The file, a function to call instead of its entrypoint, and the guest's arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "FILE")]
    pub(crate) guest: Vec<String>,
}

/// The options of `compile`.
#[derive(Debug, Group)]
pub(crate) struct Compile {
    #[command(flatten)]
    pub(crate) daemon: Daemon,
    /// A file, or the name of an image in containerd or Docker.
    #[arg(value_name = "IMAGE-OR-FILE")]
    pub(crate) source: String,
}

/// Where to search for an image: the default places, unless an option says otherwise.
#[derive(Debug, Default, Group)]
pub(crate) struct Daemon {
    /// containerd's socket.
    #[arg(short, long, value_name = "SOCKET")]
    pub(crate) address: Option<String>,
    /// containerd's namespace [default: default, then k8s.io, then moby].
    #[arg(short, long, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// The platform, of an image with several.
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    pub(crate) platform: Option<String>,
}

/// The options of `watch`.
#[cfg(feature = "watch")]
#[derive(Debug, Group)]
pub(crate) struct Watch {
    /// containerd's socket.
    #[arg(short, long, value_name = "SOCKET", default_value = crate::images::ADDRESS)]
    pub(crate) address: PathBuf,
    /// A namespace of containerd. Repeatable [default: all].
    #[arg(short, long, value_name = "NAME")]
    pub(crate) namespace: Vec<String>,
    /// Compile the images that exist already, too.
    #[arg(long)]
    pub(crate) existing: bool,
}

/// The commands of `cache`.
#[derive(Debug, Subcommand)]
pub(crate) enum Cache {
    /// List the compiled code of all engines.
    #[command(after_help = "Example:\n  cache ls --json")]
    Ls {
        /// Print JSON: sizes in bytes, the time since the last use in seconds.
        #[arg(long)]
        json: bool,
    },
    /// Remove compiled code. Running containers continue.
    #[command(after_help = "Example:\n  cache prune --older-than 7d")]
    Prune {
        /// Remove only code that was not used for this time: a number with s, m, h or d.
        #[arg(long, value_name = "AGE", value_parser = age)]
        older_than: Option<Duration>,
    },
}

/// Returns the command of `program`, `wherry-E`. `version` is the text of `--version`.
pub(crate) fn command(program: &str, version: &str) -> clap::Command {
    Args::command()
        .name(program.to_owned())
        .bin_name(program.to_owned())
        .version(version.to_owned())
        .before_help(format!("{program} {}", version.trim_end()))
        // Words after the file are the guest's, which clap cannot express as two arguments.
        .mut_subcommand("run", |run| {
            run.override_usage(format!("{program} run [OPTIONS] FILE[#FUNCTION] [ARG]..."))
        })
}

/// Parses `words`; the first is the program's name.
///
/// # Errors
/// clap's message for the user. Help and version are such messages too.
pub(crate) fn parse(command: clap::Command, words: &[String]) -> Result<Args, clap::Error> {
    Args::from_arg_matches(&command.try_get_matches_from(words)?)
}

/// Why the value of an option is invalid.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum InvalidValue {
    #[error("expected KEY=VALUE")]
    Variable,
    #[error("expected a number with s, m, h or d")]
    Age,
}

fn variable(text: &str) -> Result<(String, String), InvalidValue> {
    let (key, value) = text.split_once('=').ok_or(InvalidValue::Variable)?;
    Ok((key.to_owned(), value.to_owned()))
}

const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];

fn age(text: &str) -> Result<Duration, InvalidValue> {
    let seconds = UNITS.iter().find_map(|(unit, seconds)| {
        text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(*seconds)
    });
    seconds.map(Duration::from_secs).ok_or(InvalidValue::Age)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, clap::Error> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        parse(command("wherry-e", "1"), &words).map(|args| args.command)
    }

    #[test]
    fn the_definition_is_consistent() {
        command("wherry-e", "1").debug_assert();
    }

    #[test]
    fn words_after_the_file_are_the_guests() {
        let line = "wherry-e run -e A=b=c --dir x::/y app.wasm --env --net -- -h";
        let Ok(Command::Run(run)) = parsed(line) else { panic!("run is parsed") };
        assert_eq!(run.guest, ["app.wasm", "--env", "--net", "--", "-h"]);
        assert_eq!(run.env, [("A".to_owned(), "b=c".to_owned())]);
        assert_eq!((run.dir, run.net), (vec!["x::/y".to_owned()], false));
        assert_eq!(run.cwd, PathBuf::from("/"));
    }

    #[test]
    fn invalid_command_lines_are_usage_errors() {
        for line in [
            "wherry-e",
            "wherry-e fly",
            "wherry-e run",
            "wherry-e run --env A app.wasm",
            "wherry-e run --wings app.wasm",
            "wherry-e compile",
            "wherry-e compile a b",
            "wherry-e cache",
            "wherry-e cache prune --older-than x",
            "wherry-e cache prune --older-than 1w",
        ] {
            let error = parsed(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}: {error}");
        }
    }

    #[test]
    fn questions_about_the_program_succeed() {
        for line in ["wherry-e -v", "wherry-e -V", "wherry-e --version", "wherry-e -h"] {
            let error = parsed(line).unwrap_err();
            assert_eq!(error.exit_code(), 0, "{line}");
            assert!(error.to_string().contains("wherry-e 1"), "{line}: {error}");
        }
        for name in ["run", "compile", "cache", "cache ls", "cache prune", "version"] {
            let help = parsed(&format!("wherry-e {name} --help")).unwrap_err();
            assert_eq!(help.exit_code(), 0, "{name}");
        }
    }

    #[test]
    fn ages_are_read_as_people_write_them() {
        assert_eq!(age("7d"), Ok(Duration::from_secs(604_800)));
        assert_eq!(age("90s"), Ok(Duration::from_secs(90)));
        for wrong in ["", "d", "7", "-1d", "1 week"] {
            assert!(age(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_variable_keeps_its_further_equals_signs_and_may_be_empty() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(variable("A=b=c").unwrap(), pair("A", "b=c"));
        assert_eq!(variable("A=").unwrap(), pair("A", ""));
    }

    #[test]
    fn an_age_that_overflows_is_refused() {
        assert!(age("18446744073709551615d").is_err());
    }
}
