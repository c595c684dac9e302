//! HOME comes from the passwd file of the image, as under runc, for guests and for native programs.

use wherry_e2e::tests_in;
use wherry_testing::{Container, Daemon, Docker, Image, Run, busybox, guests, runtime};

const RUNC: &str = "io.containerd.runc.v2";

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
                      # a comment\n\
                      guest:x:1234:1234::/home/guest:/bin/sh\n\
                      damaged:x\n\
                      nowhere:x:55:55:::/bin/sh\n\
                      second:x:1234:1234::/home/second:/bin/sh\n";

/// The options of `docker run`.
const OPTIONS: &[&[&str]] = &[
    &[],
    &["--user", "guest"],
    &["--user", "1234"],
    &["--user", "1234:77"],
    &["--user", "second"],
    &["--user", "55"],
    &["--user", "9999"],
    &["--user", "1234", "--env", "HOME=/given"],
    &["--user", "1234", "--env", "HOME="],
    &["--workdir", "/tmp", "--read-only"],
];

fn image(passwd: Option<&str>) -> Image {
    let image = busybox().file("/kit.wasm", 0o755, guests::bytes("kit.wasm"));
    // The later file replaces busybox's.
    image.folder("/tmp", 0o777).file("/etc/passwd", 0o644, passwd.unwrap_or_default())
}

/// The value of HOME in a list of variables.
fn home(said: &str) -> Option<String> {
    let mut lines = said.lines().map(|line| line.trim_start_matches("env "));
    lines.find_map(|line| line.strip_prefix("HOME=").map(str::to_owned))
}

fn home_is_that_of_the_images_passwd(docker: &Docker) {
    const NATIVE: &[&str] = &["/bin/env"];
    const WASM: &[&str] = &["/kit.wasm", "show"];
    let first = |run: &Run, words: &[&str]| home(&docker.run(&run.clone().args(words)).success());
    let exec = |container: &Container<'_>, words: &[&str]| {
        home(&docker.exec(container.id(), words, b"").success())
    };
    let mut wrong = Vec::new();
    for passwd in [Some(PASSWD), None] {
        // Docker itself refuses a name that the image does not have.
        let numbers = |options: &&&[&str]| {
            passwd.is_some() || !options.iter().any(|word| ["guest", "second"].contains(word))
        };
        for options in OPTIONS.iter().filter(numbers) {
            let run = |runtime: &str| Run::new(&image(passwd)).runtime(runtime).extra(options);
            let sleeping =
                |runtime: &str| docker.start(&run(runtime).args(&["/bin/sleep", "100000"]));
            let (theirs, own) = (sleeping(RUNC), sleeping(&runtime()));
            let expected = (first(&run(RUNC), NATIVE), exec(&theirs, NATIVE));
            for words in [NATIVE, WASM] {
                let found = (first(&run(&runtime()), words), exec(&own, words));
                if found != expected {
                    wrong.push(format!("{options:?} {words:?}: runc {expected:?}, ours {found:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

tests_in!(docker_28, Docker::shared(DockerVersion::V28), home_is_that_of_the_images_passwd);
