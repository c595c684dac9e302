//! A registry on loopback: Debian's docker-registry.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::places::daemon_bin;
use crate::scope::Scope;
use crate::wait::{DEADLINE, wait_until};

/// A registry without TLS and without credentials. It ends when the value is dropped, or when the
/// test process dies.
pub struct Registry {
    address: String,
    process: Child,
    _scope: Scope,
}

impl Registry {
    /// Starts one.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start() -> Registry {
        let scope = Scope::new("registry");
        // Another process may take the port before the registry does: the test fails then.
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        drop(listener);
        let config = scope.root().join("registry.yml");
        let text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            scope.root().join("content").display()
        );
        fs::write(&config, text).expect("the scope's folder is writable");
        let program = daemon_bin("registry").join("docker-registry");
        let mut command = Command::new(program);
        command.arg("serve").arg(&config).stdin(Stdio::null());
        command.stdout(scope.log()).stderr(scope.log());
        // If this process is killed, the scope's helper ends it, by its folder in the command line.
        let process = command.current_dir(scope.root()).spawn().expect("the registry runs");
        let registry = Registry { address, process, _scope: scope };
        let listens = || TcpStream::connect(&registry.address).is_ok();
        wait_until("the registry listens", DEADLINE, listens);
        registry
    }

    /// The instance that the tests of this process share.
    pub fn shared() -> &'static Registry {
        static SHARED: OnceLock<Registry> = OnceLock::new();
        SHARED.get_or_init(Registry::start)
    }

    /// Its address, as the first part of an image's name.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
