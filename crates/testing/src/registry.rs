//! A registry on loopback: Debian's docker-registry.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::containerd::Containerd;
use crate::places::daemon_bin;
use crate::scope::Scope;
use crate::wait::{DEADLINE, wait_until};

/// A registry. It ends when the value is dropped, or when the test process dies.
pub struct Registry {
    address: String,
    process: Child,
    scope: Scope,
}

/// What a registry demands of its clients.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demands {
    /// TLS, with a certificate of a private authority: [`Registry::authority`].
    pub tls: bool,
    /// The credentials [`USER`] and [`PASSWORD`].
    pub credentials: bool,
}

/// The user of a registry that demands credentials.
pub const USER: &str = "reader";
/// The user's password.
pub const PASSWORD: &str = "secret";
/// The line of both in the file of passwords, with the cheapest cost of bcrypt.
const LINE: &str = "reader:$2b$04$/41aXDeE4amhtHsuLmUNA.lu6S.NKcN5V78vLgtVcwYZ6xpQVqXT.\n";

impl Registry {
    /// Starts one without TLS and without credentials.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start() -> Registry {
        Registry::start_with(Demands::default())
    }

    /// Starts one that makes demands.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_with(demands: Demands) -> Registry {
        Registry::start_by(demands, &|program| Command::new(program))
    }

    /// Starts one that makes demands, in the network namespace of a containerd.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_beside(containerd: &Containerd, demands: Demands) -> Registry {
        Registry::start_by(demands, &|program| containerd.in_network(program))
    }

    fn start_by(demands: Demands, command_of: &dyn Fn(&Path) -> Command) -> Registry {
        let scope = Scope::new("registry");
        // Another process may take the port before the registry does: the test fails then.
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        drop(listener);
        let config = scope.root().join("registry.yml");
        let path = |name: &str| scope.root().join(name).display().to_string();
        let mut text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            path("content")
        );
        if demands.tls {
            make_certificates(scope.root());
            text += &format!(
                "  tls:\n    certificate: {}\n    key: {}\n",
                path("tls.crt"),
                path("tls.key")
            );
        }
        if demands.credentials {
            fs::write(path("passwords"), LINE).expect("the scope's folder is writable");
            text +=
                &format!("auth:\n  htpasswd:\n    realm: tests\n    path: {}\n", path("passwords"));
        }
        fs::write(&config, text).expect("the scope's folder is writable");
        let program = daemon_bin("registry").join("docker-registry");
        let mut command = command_of(&program);
        command.arg("serve").arg(&config).stdin(Stdio::null());
        command.stdout(scope.log()).stderr(scope.log());
        // If this process is killed, the scope's helper ends it, by its folder in the command line.
        let process = command.current_dir(scope.root()).spawn().expect("the registry runs");
        let registry = Registry { address, process, scope };
        let connect = format!("exec 3<> /dev/tcp/{}", registry.address.replace(':', "/"));
        wait_until("the registry listens", DEADLINE, || {
            let mut command = command_of(Path::new("/bin/bash"));
            command.args(["-c", &connect]).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        });
        registry
    }

    /// The instance that the tests of this process share.
    pub fn shared() -> &'static Registry {
        static SHARED: OnceLock<Registry> = OnceLock::new();
        SHARED.get_or_init(Registry::start)
    }

    /// The file of the authority that signed the certificate of a registry with TLS.
    pub fn authority(&self) -> PathBuf {
        self.scope.root().join("ca.crt")
    }

    /// Its address, as the first part of an image's name.
    pub fn address(&self) -> &str {
        &self.address
    }
}

/// Writes the certificate of an authority, and one for loopback that it signed.
fn make_certificates(folder: &Path) {
    let openssl = |words: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(words).current_dir(folder);
        crate::io::call(command, None).success();
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let authority =
        ["req", "-x509", "-days", "2", "-subj", "/CN=tests", "-keyout", "ca.key", "-out", "ca.crt"];
    openssl(&[&authority[..], &key].concat());
    let request = ["req", "-subj", "/CN=registry", "-keyout", "tls.key", "-out", "tls.csr"];
    openssl(&[&request[..], &key].concat());
    fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1\n").expect("it is writable");
    openssl(&[
        "x509",
        "-req",
        "-days",
        "2",
        "-in",
        "tls.csr",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-extfile",
        "names",
        "-out",
        "tls.crt",
    ]);
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
