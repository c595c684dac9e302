//! A native root filesystem in 2 MB, for native entrypoints, exec and sidecars.

use crate::image::Image;
use crate::places::daemon_bin;
use std::fs;

/// An image of a static busybox with its usual names, for native entrypoints: `/bin/sh` by default.
pub fn busybox() -> Image {
    let path = daemon_bin("busybox").join("busybox");
    let bytes =
        fs::read(&path).unwrap_or_else(|e| panic!("{} cannot be read: {e}", path.display()));
    let names = "sh cat echo env false head httpd id kill ls mkdir mount nc nslookup ps pwd sleep stat stty sync tail \
                 tee test touch trap true wc wget yes";
    let mut image = Image::new("busybox").file("/bin/busybox", 0o755, bytes);
    for name in names.split_whitespace() {
        image = image.link(&format!("/bin/{name}"), "busybox");
    }
    image
        .file("/etc/passwd", 0o644, "root:x:0:0:root:/:/bin/sh\nguest:x:1234:1234::/:/bin/sh\n")
        .file("/etc/group", 0o644, "root:x:0:\nguest:x:1234:\n")
        .env("PATH", "/bin")
        .cmd(&["/bin/sh"])
}
