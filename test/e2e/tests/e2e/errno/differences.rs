//! The error numbers of a guest that are not those of a native program, with the reasons.

/// An error number that differs.
pub(super) struct Difference {
    /// The fault, as its program names it.
    pub(super) fault: &'static str,
    pub(super) native: &'static str,
    pub(super) ours: &'static str,
    /// The engines and forms of a guest that the row applies to.
    pub(super) subjects: &'static [[&'static str; 2]],
    pub(super) reason: &'static str,
}

const WASMTIME: [&str; 2] = ["wasmtime", "module"];
const COMPONENT: [&str; 2] = ["wasmtime", "component"];
const WASMEDGE: [&str; 2] = ["wasmedge", "module"];
const WAMR: [&str; 2] = ["wamr", "module"];
const ALL: &[[&str; 2]] = &[WASMTIME, COMPONENT, WASMEDGE, WAMR];

const ABOVE: &str =
    "the engine resolves `..` itself, and refuses one above the directory at which the path begins";
const DANGLING: &str = "the engine follows the link before it creates the file";

/// The faults of files: `test/guests/faults.c`.
pub(super) const FILES: &[Difference] = &[
    Difference {
        fault: "access another's file",
        native: "EACCES",
        ours: "ok",
        subjects: ALL,
        reason: "WASI has no call for it: wasi-libc inspects the file",
    },
    Difference {
        fault: "open an empty path",
        native: "ENOENT",
        ours: "ok",
        subjects: ALL,
        reason: "wasi-libc takes it for the working directory",
    },
    Difference {
        fault: "list the descriptors",
        native: "ok",
        ours: "EACCES",
        subjects: ALL,
        reason: "they are the engine's: a guest opens no file that shows its own process",
    },
    Difference {
        fault: "read a folder",
        native: "EISDIR",
        ours: "EBADF",
        subjects: &[COMPONENT, WAMR],
        reason: "in a component the adapter for preview 1 decides, in WAMR the rights of a directory",
    },
    Difference {
        fault: "open a socket",
        native: "ENXIO",
        ours: "EOPNOTSUPP",
        subjects: &[WAMR],
        reason: "WAMR replaces the kernel's number",
    },
    Difference {
        fault: "truncate a file opened to read",
        native: "EINVAL",
        ours: "ENOTCAPABLE",
        subjects: &[WASMEDGE, WAMR],
        reason: "the engine checks the rights of preview 1 before it calls the kernel",
    },
    Difference {
        fault: "create a file with a slash",
        native: "EISDIR",
        ours: "ENOENT",
        subjects: &[WASMEDGE],
        reason: "the engine looks for the folder that the slash asks for",
    },
    Difference {
        fault: "open a long path",
        native: "ENAMETOOLONG",
        ours: "ok",
        subjects: &[WASMEDGE, WAMR],
        reason: "the engine walks the path component by component",
    },
    Difference {
        fault: "create over a dangling link",
        native: "EEXIST",
        ours: "ok",
        subjects: &[WASMEDGE, WAMR],
        reason: DANGLING,
    },
    Difference {
        fault: "make a folder over a dangling link",
        native: "EEXIST",
        ours: "ok",
        subjects: &[WASMEDGE],
        reason: DANGLING,
    },
    Difference {
        fault: "open above the root",
        native: "ok",
        ours: "EPERM",
        subjects: &[WASMEDGE],
        reason: ABOVE,
    },
    Difference {
        fault: "inspect above the root",
        native: "ok",
        ours: "EPERM",
        subjects: &[WASMEDGE],
        reason: ABOVE,
    },
    Difference {
        fault: "make a folder above the root on a read-only mount",
        native: "EROFS",
        ours: "EPERM",
        subjects: &[WASMEDGE],
        reason: ABOVE,
    },
    Difference {
        fault: "create above the root on a read-only mount",
        native: "EROFS",
        ours: "EPERM",
        subjects: &[WASMEDGE],
        reason: ABOVE,
    },
    Difference {
        fault: "open above the root",
        native: "ok",
        ours: "ENOTCAPABLE",
        subjects: &[WAMR],
        reason: ABOVE,
    },
    Difference {
        fault: "inspect above the root",
        native: "ok",
        ours: "ENOTCAPABLE",
        subjects: &[WAMR],
        reason: ABOVE,
    },
    Difference {
        fault: "make a folder above the root on a read-only mount",
        native: "EROFS",
        ours: "ENOTCAPABLE",
        subjects: &[WAMR],
        reason: ABOVE,
    },
    Difference {
        fault: "create above the root on a read-only mount",
        native: "EROFS",
        ours: "ENOTCAPABLE",
        subjects: &[WAMR],
        reason: ABOVE,
    },
];

const STATES: &str =
    "preview 2 has one error, `invalid-state`, for a call that the socket's state forbids";
const ADDRESSES: &str =
    "preview 2 refuses addresses to which nothing can be sent before it calls the kernel";

/// The faults of sockets: `test/guests/sockets.c`.
pub(super) const SOCKETS: &[Difference] = &[
    Difference {
        fault: "connect without a route",
        native: "ENETUNREACH",
        ours: "EHOSTUNREACH",
        subjects: &[COMPONENT],
        reason: "preview 2 has one error, `remote-unreachable`, for both",
    },
    Difference {
        fault: "send without a route",
        native: "ENETUNREACH",
        ours: "EHOSTUNREACH",
        subjects: &[COMPONENT],
        reason: "preview 2 has one error, `remote-unreachable`, for both",
    },
    Difference {
        fault: "connect to port 0",
        native: "ECONNREFUSED",
        ours: "EINVAL",
        subjects: &[COMPONENT],
        reason: ADDRESSES,
    },
    Difference {
        fault: "connect to the address 0",
        native: "ECONNREFUSED",
        ours: "EINVAL",
        subjects: &[COMPONENT],
        reason: ADDRESSES,
    },
    Difference {
        fault: "connect a listener",
        native: "EISCONN",
        ours: "EINVAL",
        subjects: &[COMPONENT],
        reason: STATES,
    },
    Difference {
        fault: "connect twice",
        native: "EISCONN",
        ours: "EINVAL",
        subjects: &[COMPONENT],
        reason: STATES,
    },
    Difference {
        fault: "end an unconnected socket",
        native: "ENOTCONN",
        ours: "EINVAL",
        subjects: &[COMPONENT],
        reason: STATES,
    },
];
