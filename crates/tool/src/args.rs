//! The command line of `wherry`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as Group, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use wherry_oci::Platform;
use wherry_oci::registry::Options;

/// Makes, moves and inspects images and artifacts of WebAssembly.
#[derive(Debug, Parser)]
#[command(name = "wherry", version, disable_version_flag = true, arg_required_else_help = true)]
pub(crate) struct Args {
    /// Print the version.
    #[arg(short = 'v', short_alias = 'V', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make, move and inspect images and artifacts.
    #[command(subcommand)]
    Image(Box<Image>),
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

/// The commands of `image`.
#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Describe a module, component, image or artifact: imports, exports, and the engines that run
    /// it.
    #[command(after_help = "\
Examples:
  image inspect app.wasm
  image inspect ghcr.io/me/app:1.0
  image inspect --json containerd:docker.io/library/app:1.0")]
    Inspect(Inspect),
    /// Make an image of a module or component. The same input makes the same digest.
    #[command(after_help = "\
Examples:
  image build app.wasm -t app:1.0
  image build app.wasm -t app:1.0 --env LEVEL=debug --layer ./assets --to docker
  image build app.wasm -t ghcr.io/me/app:1.0 --artifact --to registry")]
    Build(Build),
    /// Convert an artifact to an image that every client runs, or back with --artifact.
    #[command(after_help = "\
Examples:
  image convert ghcr.io/me/app:1.0 --to app.tar
  image convert app.tar -t app:1.0 --to docker
  image convert --artifact containerd:docker.io/library/app:1.0 --to ./layout")]
    Convert(Convert),
    /// Pull an image or artifact from a registry. An artifact becomes an image of the same name.
    #[command(after_help = "\
Examples:
  image pull ghcr.io/me/app:1.0
  image pull --namespace k8s.io ghcr.io/me/app:1.0
  image pull --compile --namespace k8s.io ghcr.io/me/app:1.0
  image pull --plain-http localhost:5000/app:1.0 --to docker")]
    Pull(Pull),
    /// Push an image or artifact to a registry.
    #[command(after_help = "\
Examples:
  image push app.tar ghcr.io/me/app:1.0
  image push containerd:docker.io/library/app:1.0 ghcr.io/me/app:1.0")]
    Push(Push),
    /// List the images of WebAssembly in a store.
    #[command(after_help = "Examples:\n  image ls\n  image ls --json --namespace k8s.io")]
    Ls(Ls),
    /// Remove images from a store.
    #[command(after_help = "Example:\n  image rm docker.io/library/app:1.0")]
    Rm(Rm),
}

/// The options of `inspect`.
#[derive(Debug, Group)]
pub(crate) struct Inspect {
    /// A file, a layout, its archive, a name in a registry, or containerd:NAME or docker:NAME.
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// The platform, of an image with several.
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    pub(crate) platform: Option<Platform>,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// The options of `build`.
#[derive(Debug, Group)]
pub(crate) struct Build {
    /// The module or component.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The image's name.
    #[arg(short, long, value_name = "NAME")]
    pub(crate) tag: String,
    /// Make an artifact of the CNCF's layout instead of an image.
    #[arg(long, conflicts_with_all = ["entrypoint", "arg", "env", "platform", "layer", "workdir", "user"])]
    pub(crate) artifact: bool,
    /// A word of the entrypoint, instead of the file's path in the image. Repeatable.
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub(crate) entrypoint: Vec<String>,
    /// A default argument. Repeatable.
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub(crate) arg: Vec<String>,
    /// A variable of the environment. Repeatable.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) env: Vec<(String, String)>,
    /// A label, or an annotation of an artifact. Repeatable.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) label: Vec<(String, String)>,
    /// A platform. Repeatable [default: wasi/wasm and this machine's].
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    pub(crate) platform: Vec<Platform>,
    /// A folder whose content is a layer below the module. Repeatable, the lowest first.
    #[arg(long, value_name = "DIR")]
    pub(crate) layer: Vec<PathBuf>,
    /// The working directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// The user.
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    #[command(flatten)]
    pub(crate) to: Destination,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// The options of `convert`.
#[derive(Debug, Group)]
pub(crate) struct Convert {
    /// A layout, its archive, a name in a registry, or containerd:NAME or docker:NAME.
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// The new name [default: the same].
    #[arg(short, long, value_name = "NAME")]
    pub(crate) tag: Option<String>,
    /// Make an artifact of an image.
    #[arg(long)]
    pub(crate) artifact: bool,
    #[command(flatten)]
    pub(crate) to: Destination,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// The value of `--compile` without one.
pub(crate) const ALL: &str = "all";

/// The options of `pull`.
#[derive(Debug, Group)]
pub(crate) struct Pull {
    /// The name in a registry.
    pub(crate) name: String,
    /// Compile the module too, with each engine of this machine or those that are named, separated
    /// by commas. It takes the rights of root.
    #[arg(
        long,
        value_name = "ENGINE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = ALL,
        value_delimiter = ','
    )]
    pub(crate) compile: Vec<String>,
    #[command(flatten)]
    pub(crate) to: Destination,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// The options of `push`.
#[derive(Debug, Group)]
pub(crate) struct Push {
    /// A layout, its archive, containerd:NAME or docker:NAME.
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// The name in a registry.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// The options of `ls`.
#[derive(Debug, Group)]
pub(crate) struct Ls {
    /// The store: containerd or docker.
    #[arg(long, value_name = "STORE", default_value = "containerd")]
    pub(crate) from: Store,
    /// List native images too.
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// The options of `rm`.
#[derive(Debug, Group)]
pub(crate) struct Rm {
    /// The names.
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
    /// The store: containerd or docker.
    #[arg(long, value_name = "STORE", default_value = "containerd")]
    pub(crate) from: Store,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// A store of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Containerd,
    Docker,
}

impl std::str::FromStr for Store {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Store, InvalidValue> {
        match text {
            "containerd" => Ok(Store::Containerd),
            "docker" => Ok(Store::Docker),
            _ => Err(InvalidValue::Store),
        }
    }
}

/// Where an image goes.
#[derive(Debug, Group)]
pub(crate) struct Destination {
    /// The destination: containerd, docker, registry, a file NAME.tar, - for an archive on standard
    /// output, or the folder of an OCI layout.
    #[arg(long, value_name = "DESTINATION", default_value = "containerd")]
    pub(crate) to: String,
    /// Replace a native image of the same name.
    #[arg(long)]
    pub(crate) force: bool,
}

/// The options of all commands.
#[derive(Debug, Group)]
pub(crate) struct Common {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// containerd's socket.
    #[arg(
        short = 'a',
        long,
        value_name = "SOCKET",
        default_value = "/run/containerd/containerd.sock"
    )]
    pub(crate) address: String,
    /// containerd's namespace: k8s.io is that of Kubernetes.
    #[arg(short, long, value_name = "NAME", default_value = "default")]
    pub(crate) namespace: String,
    /// Connect to the registry without TLS.
    #[arg(long)]
    plain_http: bool,
    /// A file of certificates that the registry's may be signed with. Repeatable.
    #[arg(long, value_name = "FILE")]
    certificate: Vec<PathBuf>,
    /// The number of repetitions of a failed request.
    #[arg(long, value_name = "NUMBER", default_value_t = 4)]
    retries: u32,
    /// The seconds after which a registry that sends nothing has stalled.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

impl Common {
    /// The options of connections to registries.
    pub(crate) fn registry(&self) -> Options {
        Options {
            plain_http: self.plain_http,
            certificates: self.certificate.clone(),
            retries: self.retries,
            timeout: Duration::from_secs(self.timeout),
            ..Options::default()
        }
    }
}

/// Why the value of an option is invalid.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidValue {
    #[error("expected KEY=VALUE")]
    Pair,
    #[error("expected containerd or docker")]
    Store,
}

fn pair(text: &str) -> Result<(String, String), InvalidValue> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(InvalidValue::Pair),
    }
}

/// Returns the definition of the command line.
pub(crate) fn command() -> clap::Command {
    Args::command().bin_name("wherry")
}

/// Parses `words`; the first is the program's name.
///
/// # Errors
/// clap's message for the user. Help and version are such messages too.
pub(crate) fn parse(words: &[String]) -> Result<Args, clap::Error> {
    Args::from_arg_matches(&command().try_get_matches_from(words)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, clap::Error> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        parse(&words).map(|args| args.command)
    }

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn a_build_has_its_options_in_order() {
        let line = "wherry image build a.wasm -t a:1 -e A=b=c --arg -v --platform wasi/wasm --to -";
        let Ok(Command::Image(image)) = parsed(line) else { panic!("it is parsed") };
        let Image::Build(build) = *image else { panic!("it is a build") };
        assert_eq!(build.env, [("A".to_owned(), "b=c".to_owned())]);
        assert_eq!(build.arg, ["-v"]);
        assert_eq!(build.platform, [Platform::wasm()]);
        assert_eq!(build.to.to, "-");
        assert_eq!(build.common.namespace, "default");
    }

    #[test]
    fn the_engines_of_a_compilation_are_all_or_named() {
        let engines = |line: &str| {
            let Ok(Command::Image(image)) = parsed(line) else { panic!("it is parsed") };
            let Image::Pull(pull) = *image else { panic!("it is a pull") };
            (pull.compile, pull.name)
        };
        let all = (vec!["all".to_owned()], "a".to_owned());
        assert_eq!(engines("wherry image pull --compile a"), all);
        let two = vec!["x".to_owned(), "y".to_owned()];
        assert_eq!(engines("wherry image pull a --compile=x,y").0, two);
        assert!(engines("wherry image pull a").0.is_empty());
    }

    #[test]
    fn invalid_command_lines_are_usage_errors() {
        for line in [
            "wherry",
            "wherry image",
            "wherry image fly",
            "wherry image build a.wasm",
            "wherry image build a.wasm -t a --env A",
            "wherry image build a.wasm -t a --platform linux",
            "wherry image build a.wasm -t a --artifact --env A=b",
            "wherry image push a.tar",
            "wherry image rm",
            "wherry image ls --from podman",
            "wherry image pull a --timeout 0",
        ] {
            let error = parsed(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}: {error}");
        }
    }
}
