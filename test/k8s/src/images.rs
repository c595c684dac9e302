//! The images of the tests, and the two kinds of containers that a test is run with.

use serde_json::{Value, json};
use wherry_testing::{Image, busybox, guests};

/// The names under which the images are pulled.
pub const IMAGES: [&str; 6] = [
    "docker.io/wherry/kit:wasm",
    "docker.io/wherry/kit:native",
    "docker.io/wherry/net:wasm",
    "docker.io/wherry/busybox:1",
    "docker.io/wherry/data:1",
    "registry.k8s.io/pause:3.10",
];

/// What runs a pod's containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Wherry, with wasm guests.
    Wasm,
    /// runc, with native programs: what a test asks for must be possible at all.
    Runc,
}

impl Kind {
    /// The RuntimeClass.
    pub fn class(self) -> &'static str {
        match self {
            Kind::Wasm => "wasm",
            Kind::Runc => "runc",
        }
    }

    /// The image of the guest `kit`, whose program is `/kit`.
    pub fn kit(self) -> &'static str {
        match self {
            Kind::Wasm => "wherry/kit:wasm",
            Kind::Runc => "wherry/kit:native",
        }
    }

    /// The container of a server that answers HTTP on a port with "ok".
    pub fn web(self, port: u16) -> Value {
        let port = port.to_string();
        match self {
            Kind::Wasm => {
                json!({"name": "web", "image": "wherry/net:wasm", "args": ["http-serve", port]})
            }
            Kind::Runc => {
                let script = format!(
                    "mkdir /www; echo ok > /www/index.html; exec httpd -f -p {port} -h /www"
                );
                json!({"name": "web", "image": "wherry/busybox:1", "command": ["sh", "-c", script]})
            }
        }
    }
}

/// All images with their names.
pub(crate) fn all() -> Vec<(&'static str, Image)> {
    let kit = |bytes: Vec<u8>| {
        let image = Image::new("kit").file("/kit", 0o755, bytes).entrypoint(&["/kit"]);
        // A restricted pod's user may write there, where the root filesystem may be written.
        image.folder("/tmp", 0o1777).file("/etc/passwd", 0o644, "root:x:0:0:root:/:/kit\n")
    };
    let images = [
        kit(guests::bytes("kit.wasm")),
        kit(guests::bytes("kit.static")),
        Image::new("net")
            .file("/net", 0o755, guests::bytes("net.component.wasm"))
            .entrypoint(&["/net"]),
        busybox(),
        Image::new("data").file("/greeting", 0o644, "hello from an image\n"),
        Image::new("pause")
            .file("/pause", 0o755, guests::bytes("pause.static"))
            .entrypoint(&["/pause"])
            .user("65535:65535"),
    ];
    IMAGES.into_iter().zip(images).collect()
}
