//! Mount propagation: the eight values of the runtime specification, for the root filesystem
//! (`linux.rootfsPropagation`) and as options of a mount. See mount_namespaces(7).

use std::fmt;

use nix::mount::MsFlags;
use oci_spec::runtime::{Linux, Mount};

/// A propagation type, of one mount or of the whole tree below it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Propagation {
    kind: Kind,
    recursive: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Private,
    Shared,
    Slave,
    Unbindable,
}

impl Propagation {
    /// Parses a value of the specification, such as `rslave`. None for any other text.
    pub(crate) fn parse(text: &str) -> Option<Propagation> {
        let kind = |name| match name {
            "private" => Some(Kind::Private),
            "shared" => Some(Kind::Shared),
            "slave" => Some(Kind::Slave),
            "unbindable" => Some(Kind::Unbindable),
            _ => None,
        };
        let of = |kind, recursive| Propagation { kind, recursive };
        let recursive = || text.strip_prefix('r').and_then(kind).map(|kind| of(kind, true));
        kind(text).map(|kind| of(kind, false)).or_else(recursive)
    }

    /// The propagation that the options of a mount set: the last one counts.
    pub(crate) fn of_mount(mount: &Mount) -> Option<Propagation> {
        let options = mount.options().as_deref().unwrap_or_default();
        options.iter().rev().find_map(|option| Propagation::parse(option))
    }

    /// The propagation of the root filesystem. None if the configuration sets none.
    pub(crate) fn of_root(linux: &Linux) -> Option<Propagation> {
        linux.rootfs_propagation().as_deref().and_then(Propagation::parse)
    }

    /// Whether mounts propagate from the container to the host.
    pub(crate) fn is_shared(self) -> bool {
        self.kind == Kind::Shared
    }

    pub(crate) fn is_recursive(self) -> bool {
        self.recursive
    }

    /// The propagation type as mount_setattr(2) takes it.
    pub(crate) fn flag(self) -> MsFlags {
        match self.kind {
            Kind::Private => MsFlags::MS_PRIVATE,
            Kind::Shared => MsFlags::MS_SHARED,
            Kind::Slave => MsFlags::MS_SLAVE,
            Kind::Unbindable => MsFlags::MS_UNBINDABLE,
        }
    }

    /// The value for libcontainer's `rootfsPropagation`. libcontainer knows four values, and
    /// applies each to every mount of the new namespace before it mounts: `private` there cuts off
    /// the binds that must stay slaves of the host, so only the recursive value is passed as
    /// `private`.
    pub(crate) fn for_libcontainer(self) -> &'static str {
        match (self.kind, self.recursive) {
            (Kind::Shared, _) => "shared",
            (Kind::Private, true) => "private",
            (Kind::Unbindable, _) => "unbindable",
            (Kind::Private, false) | (Kind::Slave, _) => "slave",
        }
    }

    /// Whether the value of the root filesystem must be applied to the mounts below `/` after
    /// libcontainer's last step. libcontainer has applied `slave` and `rprivate` to every mount;
    /// `rslave` a second time would cut off the shared binds.
    pub(crate) fn is_incomplete(self) -> bool {
        self.recursive && matches!(self.kind, Kind::Shared | Kind::Unbindable)
    }
}

impl fmt::Display for Propagation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.kind {
            Kind::Private => "private",
            Kind::Shared => "shared",
            Kind::Slave => "slave",
            Kind::Unbindable => "unbindable",
        };
        write!(f, "{}{name}", if self.recursive { "r" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_eight_values_are_known_and_no_other() {
        for kind in ["private", "shared", "slave", "unbindable"] {
            for text in [kind.to_owned(), format!("r{kind}")] {
                let propagation = Propagation::parse(&text).unwrap();
                assert_eq!(propagation.to_string(), text);
                assert_eq!(propagation.is_recursive(), text != kind);
            }
        }
        for other in ["", "r", "rrslave", "ro", "rbind", "Slave"] {
            assert_eq!(Propagation::parse(other), None, "{other}");
        }
    }

    #[test]
    fn the_last_option_of_a_mount_counts() {
        let mount = |options: &str| {
            let text = format!(r#"{{"destination": "/m", "options": {options}}}"#);
            Propagation::of_mount(&serde_json::from_str(&text).unwrap())
        };
        assert_eq!(mount(r#"["rbind", "rprivate", "ro", "shared"]"#), Propagation::parse("shared"));
        assert_eq!(mount(r#"["rbind", "ro"]"#), None);
    }
}
