//! The command line with which containerd calls a shim: flags in Go's manner, then an action.

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Start,
    Delete,
    Info,
    Version,
}

/// The command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) action: Action,
    /// containerd's namespace.
    pub(crate) namespace: String,
    /// containerd's gRPC socket.
    pub(crate) address: String,
    /// The container.
    pub(crate) id: String,
    /// The bundle; empty for the working directory.
    pub(crate) bundle: String,
    pub(crate) debug: bool,
}

impl Args {
    /// Takes the arguments behind the program's name.
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> Result<Args, String> {
        let mut parsed = Args {
            action: Action::Version,
            namespace: String::new(),
            address: String::new(),
            id: String::new(),
            bundle: String::new(),
            debug: false,
        };
        let mut action = None;
        let mut args = args;
        while let Some(arg) = args.next() {
            let Some(flag) = arg.strip_prefix('-') else {
                action = Some(match arg.as_str() {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    _ => return Err(format!("unknown action {arg:?}: it is start or delete")),
                });
                continue;
            };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, inline) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            match name {
                "debug" => parsed.debug = inline.is_none_or(|value| value != "false"),
                "v" | "version" => return Ok(Args { action: Action::Version, ..parsed }),
                "info" => return Ok(Args { action: Action::Info, ..parsed }),
                _ => {
                    let value = inline
                        .or_else(|| args.next())
                        .ok_or_else(|| format!("flag -{name} needs a value"))?;
                    match name {
                        "namespace" => parsed.namespace = value,
                        "address" => parsed.address = value,
                        "id" => parsed.id = value,
                        "bundle" => parsed.bundle = value,
                        // Given by all versions of containerd, and of no use here.
                        "publish-binary" | "socket" => {}
                        _ => return Err(format!("unknown flag -{name}")),
                    }
                }
            }
        }
        parsed.action = action.ok_or(
            "containerd runs this program: it needs the action start or delete, or -info or -v",
        )?;
        for (flag, value) in [("namespace", &parsed.namespace), ("id", &parsed.id)] {
            if value.is_empty() {
                return Err(format!("flag -{flag} is missing"));
            }
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn as_containerd_calls() {
        let args = parse(
            "-namespace moby -address /run/c.sock -publish-binary /bin/c -id abc -debug start",
        )
        .unwrap();
        assert_eq!(args.action, Action::Start);
        assert_eq!((args.namespace.as_str(), args.id.as_str()), ("moby", "abc"));
        assert_eq!(args.address, "/run/c.sock");
        assert!(args.debug);
        let args = parse("--namespace=a --id=b -bundle /x -debug=false delete").unwrap();
        assert_eq!((args.action, args.bundle.as_str(), args.debug), (Action::Delete, "/x", false));
    }

    #[test]
    fn questions_need_nothing_else() {
        assert_eq!(parse("-v").unwrap().action, Action::Version);
        assert_eq!(parse("-info").unwrap().action, Action::Info);
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(parse("").unwrap_err().contains("start or delete"));
        assert_eq!(parse("-id x start").unwrap_err(), "flag -namespace is missing");
        assert_eq!(parse("-namespace x -id").unwrap_err(), "flag -id needs a value");
        assert_eq!(parse("-nonsense 1 start").unwrap_err(), "unknown flag -nonsense");
        assert!(parse("-namespace a -id b stop").unwrap_err().contains("\"stop\""));
    }
}
