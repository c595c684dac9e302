//! The support of each runtime of Wherry, in one place for the engines and for `wherry image`.

use super::{Support, features, preview1};

/// The functions for sockets of WasmEdge 0.17, as far as preview 1 does not have them.
const WASMEDGE_SOCKETS: [&str; 23] = [
    "sock_accept_v2",
    "sock_bind",
    "sock_bind_v2",
    "sock_connect",
    "sock_connect_v2",
    "sock_getaddrinfo",
    "sock_getlocaladdr",
    "sock_getlocaladdr_v2",
    "sock_getpeeraddr",
    "sock_getpeeraddr_v2",
    "sock_getsockopt",
    "sock_listen",
    "sock_listen_v2",
    "sock_open",
    "sock_open_v2",
    "sock_recv_from",
    "sock_recv_from_v2",
    "sock_recv_v2",
    "sock_send_to",
    "sock_send_to_v2",
    "sock_send_v2",
    "sock_setsockopt",
    "sock_shutdown",
];

/// The functions for sockets of WAMR 2.4 without its options, as far as preview 1 does not have
/// them.
const WAMR_SOCKETS: [&str; 10] = [
    "sock_addr_local",
    "sock_addr_remote",
    "sock_addr_resolve",
    "sock_bind",
    "sock_close",
    "sock_connect",
    "sock_listen",
    "sock_open",
    "sock_recv_from",
    "sock_send_to",
];

/// Returns the support of Wasmtime.
#[must_use]
pub fn wasmtime() -> Support<'static> {
    Support {
        engine: "Wasmtime",
        features: features::WASMTIME,
        provides: &is_preview1,
        provided: preview1::MODULE,
    }
}

/// Returns the support of WasmEdge. Its executable queries the library for the provided functions
/// instead: they differ between versions.
#[must_use]
pub fn wasmedge() -> Support<'static> {
    Support {
        engine: "WasmEdge",
        features: features::WASMEDGE,
        provides: &|module, name| {
            is_preview1(module, name)
                || module == preview1::MODULE && WASMEDGE_SOCKETS.contains(&name)
        },
        provided: "wasi_snapshot_preview1 and WasmEdge's sockets",
    }
}

/// Returns the support of WAMR.
#[must_use]
pub fn wamr() -> Support<'static> {
    Support {
        engine: "WAMR",
        features: features::WAMR,
        provides: &|module, name| {
            [preview1::MODULE, "wasi_unstable"].contains(&module)
                && (preview1::function(name).is_some() || is_wamr_socket(name))
        },
        provided: "wasi_snapshot_preview1 and WAMR's sockets",
    }
}

/// Returns the name of each engine, as in `io.containerd.<name>.v1`, with its support. The first
/// choice comes first.
#[must_use]
pub fn all() -> [(&'static str, Support<'static>); 3] {
    [("wasmtime", wasmtime()), ("wasmedge", wasmedge()), ("wamr", wamr())]
}

fn is_wamr_socket(name: &str) -> bool {
    // `sock_set_keep_alive` and so on.
    let is_option = ["sock_get_", "sock_set_"].iter().any(|prefix| name.starts_with(prefix));
    is_option || WAMR_SOCKETS.contains(&name)
}

fn is_preview1(module: &str, name: &str) -> bool {
    module == preview1::MODULE && preview1::function(name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_beyond_preview_1_are_those_of_each_engine() {
        let provides = |function: &str| {
            all().map(|(_, support)| (support.provides)(preview1::MODULE, function))
        };
        assert_eq!(provides("fd_write"), [true, true, true]);
        assert_eq!(provides("sock_open"), [false, true, true]);
        assert_eq!(provides("sock_addr_resolve"), [false, false, true]);
        assert_eq!(provides("sock_open_v2"), [false, true, false]);
        assert_eq!(provides("no_such"), [false, false, false]);
    }
}
