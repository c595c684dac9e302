//! The command line that containerd calls a shim with: flags in Go's syntax, then an action.

use crate::error::{Error, Result};

/// The action that the command line names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Start,
    Delete,
    Upgrade,
    /// For systemd.
    Manager,
    Info,
    Version,
    Help,
}

/// The command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) action: Action,
    /// containerd's namespace.
    pub(crate) namespace: String,
    /// containerd's gRPC socket.
    pub(crate) address: String,
    /// containerd's ttrpc socket, for a manager.
    pub(crate) ttrpc_address: String,
    /// The manager's socket.
    pub(crate) socket: String,
    /// The container.
    pub(crate) id: String,
    /// The bundle; empty for the working directory.
    pub(crate) bundle: String,
    pub(crate) debug: bool,
}

/// The text for `-help`, after the executable's name.
pub(crate) const USAGE: &str = "\
 -namespace NAME -id ID [-address SOCKET] [-bundle DIR] [-debug] start|delete
       containerd calls this: start prints the address of the daemon that serves a container,
       delete removes what a dead daemon left
 [-namespace NAME] [-address SOCKET] upgrade
       make the running daemons of this runtime continue with the installed executables; their
       containers keep running
  -info     print the runtime's features, as a protobuf RuntimeInfo
  -v        print the version
  -h        print this help
";

impl Args {
    /// Parses the arguments after the program's name.
    ///
    /// # Errors
    /// When an action or flag is unknown or missing.
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Args> {
        let mut parsed = Args {
            action: Action::Version,
            namespace: String::new(),
            address: String::new(),
            ttrpc_address: String::new(),
            socket: String::new(),
            id: String::new(),
            bundle: String::new(),
            debug: false,
        };
        let mut action = None;
        while let Some(arg) = args.next() {
            let Some(flag) = arg.strip_prefix('-') else {
                action = Some(match arg.as_str() {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    "upgrade" => Action::Upgrade,
                    "manager" => Action::Manager,
                    _ => return Err(Error::UnknownAction(arg)),
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
                "h" | "help" => return Ok(Args { action: Action::Help, ..parsed }),
                "info" => return Ok(Args { action: Action::Info, ..parsed }),
                _ => {
                    let place = match name {
                        "namespace" => Some(&mut parsed.namespace),
                        "address" => Some(&mut parsed.address),
                        "id" => Some(&mut parsed.id),
                        "bundle" => Some(&mut parsed.bundle),
                        // Every version of containerd passes the first; the shim publishes over
                        // ttrpc itself.
                        "publish-binary" => None,
                        "ttrpc-address" => Some(&mut parsed.ttrpc_address),
                        "socket" => Some(&mut parsed.socket),
                        _ => return Err(Error::UnknownFlag(name.to_owned())),
                    };
                    let value = inline
                        .or_else(|| args.next())
                        .ok_or_else(|| Error::MissingValue(name.to_owned()))?;
                    if let Some(place) = place {
                        *place = value;
                    }
                }
            }
        }
        parsed.action = action.ok_or(Error::MissingAction)?;
        let object = match parsed.action {
            Action::Upgrade => return Ok(parsed),
            Action::Manager => ("socket", &parsed.socket),
            _ => ("id", &parsed.id),
        };
        for (flag, value) in [("namespace", &parsed.namespace), object] {
            if value.is_empty() {
                return Err(Error::MissingFlag(flag));
            }
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args> {
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
        for (line, action) in [
            ("-v", Action::Version),
            ("--version", Action::Version),
            ("-h", Action::Help),
            ("--help", Action::Help),
            ("-info", Action::Info),
        ] {
            assert_eq!(parse(line).unwrap().action, action, "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |line: &str| parse(line).unwrap_err().to_string();
        assert!(error("").contains("start or delete"));
        assert_eq!(error("-id x start"), "flag -namespace is missing");
        assert_eq!(error("-namespace x -id"), "flag -id needs a value");
        assert_eq!(error("-nonsense 1 start"), "unknown flag -nonsense");
        let unknown = error("-namespace a -id b stop");
        assert_eq!(unknown, "unknown action \"stop\": expected start, delete or upgrade");
    }

    #[test]
    fn an_upgrade_is_of_all_daemons_unless_flags_name_some() {
        let all = parse("upgrade").unwrap();
        assert_eq!((all.action, all.namespace.as_str()), (Action::Upgrade, ""));
        let some = parse("upgrade -namespace moby -address /run/c.sock").unwrap();
        assert_eq!((some.namespace.as_str(), some.address.as_str()), ("moby", "/run/c.sock"));
    }

    #[test]
    fn the_flags_may_come_after_the_action() {
        let args = parse("start -id b -namespace a").unwrap();
        assert_eq!((args.action, args.id.as_str()), (Action::Start, "b"));
    }

    #[test]
    fn a_value_that_looks_like_a_flag_is_a_value() {
        let args = parse("-namespace -debug -id -v delete").unwrap();
        assert_eq!(
            (args.namespace.as_str(), args.id.as_str(), args.debug),
            ("-debug", "-v", false)
        );
    }

    #[test]
    fn a_manager_needs_its_socket_in_place_of_a_container() {
        let args = parse("-namespace n -address /a -ttrpc-address /t -socket /s manager").unwrap();
        assert_eq!((args.action, args.socket.as_str()), (Action::Manager, "/s"));
        assert_eq!((args.address.as_str(), args.ttrpc_address.as_str()), ("/a", "/t"));
        let error = parse("-namespace n -id x manager").unwrap_err().to_string();
        assert_eq!(error, "flag -socket is missing");
    }

    #[test]
    fn an_empty_id_or_namespace_is_missing() {
        let error = |line: &str| parse(line).unwrap_err().to_string();
        assert_eq!(error("-namespace= -id=x start"), "flag -namespace is missing");
        assert_eq!(error("-namespace=x -id= delete"), "flag -id is missing");
    }
}
