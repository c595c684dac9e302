//! libcontainer's errors as one sentence for the user.
//!
//! libcontainer logs an error at every layer, in the form of `Debug`, and the error that it returns
//! has lost the cause. The first logged error is the closest to the fault; a later one may hold the
//! cause.

use std::path::Path;

use nix::errno::Errno;

/// Renders logged errors, oldest first, as a sentence. `cwd` is the configured working directory.
/// Returns None if nothing was logged.
#[must_use]
pub fn sentence(details: &[String], cwd: &Path) -> Option<String> {
    let first = details.first()?;
    let (what, fields) = fields(first);
    let what = match what {
        "failed to chdir" | "failed to chdir to cwd" => {
            format!("cannot enter the working directory {}", cwd.display())
        }
        "failed to symlink defaults" => {
            "cannot create /dev/fd, /dev/stdin, /dev/stdout and /dev/stderr".to_owned()
        }
        // The kernel killed the process, which could report nothing itself.
        _ if what.contains("BrokenChannel") => {
            return Some(
                "the container's first process was killed before it was ready: by a limit on memory, or by a seccomp profile".to_owned(),
            );
        }
        _ => mount(what).unwrap_or_else(|| what.replacen("failed to ", "cannot ", 1)),
    };
    let about: Vec<&str> = fields
        .iter()
        .filter(|(name, _)| !matches!(*name, "err" | "e" | "error" | "init" | "pid"))
        .map(|(_, value)| *value)
        .collect();
    let mut text = what;
    if let Some(profile) = fields.iter().find_map(|(_, value)| quoted(value, "profile: ")) {
        text = format!("{text} {profile:?}");
    } else if let Some(file) = fields.iter().find_map(|(_, value)| quoted(value, "path: ")) {
        let data = fields.iter().find_map(|(_, value)| quoted(value, "data: ")).unwrap_or_default();
        text = format!("{text}: cannot write {data:?} to {file}");
    } else if !about.is_empty() {
        text = format!("{text} {}", about.join(" "));
    }
    let cause = details.iter().find_map(|detail| cause(detail));
    let cause =
        cause.or_else(|| details.iter().find_map(|detail| displayed(detail))).or_else(|| {
            let error = fields.iter().find(|(name, _)| matches!(*name, "err" | "e" | "error"));
            error.map(|(_, value)| (*value).to_owned())
        });
    match cause {
        Some(cause) if !text.contains(&cause) => Some(format!("{text}: {cause}")),
        _ => Some(text),
    }
}

/// Splits a log line `words of text name=value name=value` into its text and its fields.
fn fields(text: &str) -> (&str, Vec<(&str, &str)>) {
    let is_name = |word: &str| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    // The start of each field, outside of quotes and brackets.
    let mut starts = Vec::new();
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'(' | b'{' | b'[' => depth += 1,
            b')' | b'}' | b']' => depth = depth.saturating_sub(1),
            b' ' if depth == 0 => {
                let rest = text.get(at + 1..).unwrap_or_default();
                if rest.split_once('=').is_some_and(|(name, _)| is_name(name)) {
                    starts.push(at);
                }
            }
            _ => {}
        }
    }
    let what = text.get(..starts.first().copied().unwrap_or(text.len())).unwrap_or(text);
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let fields = starts.iter().zip(ends).filter_map(|(start, end)| {
        text.get(start + 1..end).and_then(|field| field.split_once('='))
    });
    (what, fields.collect())
}

/// `failed to mount Mount { destination: "/x", typ: Some("t"), source: Some("s"), …}: …`
fn mount(what: &str) -> Option<String> {
    let mount = what.strip_prefix("failed to mount ")?;
    if !mount.starts_with("Mount {") {
        let (target, _) = mount.split_once(": ")?;
        return Some(format!("cannot mount {target}"));
    }
    let target = quoted(mount, "destination: ")?;
    let source = quoted(mount, "source: Some(").unwrap_or_default();
    let kind = quoted(mount, "typ: Some(").unwrap_or("bind");
    let options = mount.split_once("options: Some([").and_then(|(_, rest)| rest.split_once("])"));
    let options = options.map(|(list, _)| list.replace(['"', ' '], "")).unwrap_or_default();
    Some(format!("cannot mount {kind} {source:?} at {target} with options {options:?}"))
}

/// The quoted string after `key`.
fn quoted<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(key)?;
    rest.strip_prefix('"')?.split('"').next()
}

/// The same error in its `Display` form, which a later layer logs.
fn displayed(detail: &str) -> Option<String> {
    detail.strip_prefix("failed to run intermediate process ").map(str::to_owned)
}

/// Finds the errno in an error's text and returns its description. Understands `Nix(ENODEV)`,
/// `ENODEV`, `Os { code: 22, kind: InvalidInput, message: "Invalid argument" }` and
/// `Invalid argument (os error 22)`.
#[must_use]
pub fn cause(text: &str) -> Option<String> {
    let number = text.split_once("(os error ").and_then(|(_, rest)| rest.split_once(')'));
    if let Some(number) = number.and_then(|(number, _)| number.parse().ok()) {
        return Some(Errno::from_raw(number).desc().to_owned());
    }
    if let Some(message) = quoted(text, "message: ") {
        return Some(message.to_owned());
    }
    let mut words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
    words.find_map(|word| word.starts_with('E').then(|| errno(word)).flatten())
}

fn errno(name: &str) -> Option<String> {
    let all = (1..=133).map(Errno::from_raw);
    let mut found = all.filter(|errno| *errno != Errno::UnknownErrno);
    found.find(|errno| format!("{errno:?}") == name).map(|errno| errno.desc().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(details: &[&str]) -> String {
        let details: Vec<String> = details.iter().map(|detail| (*detail).to_owned()).collect();
        sentence(&details, Path::new("/work")).unwrap()
    }

    #[test]
    fn what_is_at_fault_is_named_with_the_cause() {
        assert_eq!(
            explained(&["failed to chdir e=ENOENT", "failed to wait for init ready"]),
            "cannot enter the working directory /work: No such file or directory"
        );
        assert_eq!(
            explained(&[
                r#"failed to mount Mount { destination: "/m", typ: Some("x"), source: Some("s"), options: Some(["ro", "nodev"]), uid_mappings: None }: syscall"#,
                "failed to prepare rootfs err=Mount(Syscall(Nix(ENODEV)))",
            ]),
            r#"cannot mount x "s" at /m with options "ro,nodev": No such device"#
        );
        assert_eq!(
            explained(&[
                "failed to mount /dev: syscall",
                "failed to prepare rootfs err=Nix(EINVAL)"
            ]),
            "cannot mount /dev: Invalid argument"
        );
        assert_eq!(
            explained(&[
                r#"failed to apply cgroup pid=Pid(9) err=V1(Write { err: Os { code: 22, kind: InvalidInput, message: "Invalid argument" }, path: "/sys/fs/cgroup/devices/a/devices.allow", data: "c 1:3 " }) init=true"#
            ]),
            "cannot apply cgroup: cannot write \"c 1:3 \" to /sys/fs/cgroup/devices/a/devices.allow: Invalid argument"
        );
        assert_eq!(
            explained(&[r#"failed to set hostname err=Nix(EINVAL) hostname="a b=c""#]),
            "cannot set hostname \"a b=c\": Invalid argument"
        );
        assert_eq!(
            explained(&[
                "failed to apply cgroup pid=Pid(9) err=V1(Memory(UnableToSet { target: 1 })) init=true",
                "failed to run intermediate process cgroup error: unable to set memory limit to 1",
            ]),
            "cannot apply cgroup: cgroup error: unable to set memory limit to 1"
        );
        assert_eq!(
            explained(&[
                r#"failed to save config: failed to save config container_dir="/b/wherry/x""#,
                "config error: failed to save config: No space left on device (os error 28)",
            ]),
            "cannot save config: failed to save config \"/b/wherry/x\": No space left on device"
        );
        assert_eq!(
            explained(&[
                r#"failed to apply apparmor profile err=ActivateProfile { path: "/proc/self/attr/exec", profile: "p", source: Os { code: 2, kind: NotFound, message: "No such file or directory" } }"#,
            ]),
            "cannot apply apparmor profile \"p\": No such file or directory"
        );
        assert_eq!(
            explained(&["unable to restrict sys entries"]),
            "unable to restrict sys entries"
        );
    }

    #[test]
    fn nothing_said_is_no_sentence() {
        assert_eq!(sentence(&[], Path::new("/")), None);
    }

    #[test]
    fn an_errno_is_found_in_each_of_its_forms() {
        let denied = Some("Permission denied".to_owned());
        assert_eq!(cause("Mount(Syscall(Nix(EACCES)))"), denied);
        assert_eq!(cause("EACCES"), denied);
        assert_eq!(cause("Permission denied (os error 13)"), denied);
        let os = r#"Os { code: 13, kind: PermissionDenied, message: "Permission denied" }"#;
        assert_eq!(cause(os), denied);
        for none in ["", "Error", "EVERYTHING", "failed to mount", "(os error x)"] {
            assert_eq!(cause(none), None, "{none}");
        }
    }

    #[test]
    fn a_process_that_was_killed_while_it_was_set_up_says_by_which_limits() {
        let text = explained(&[
            r#"failed to wait for init ready: failed to receive. "waiting for init ready". BrokenChannel"#,
        ]);
        assert!(text.starts_with("the container's first process was killed before"), "{text}");
    }
}
