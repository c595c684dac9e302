//! A guest's view of its container: runs the kit's commands inside and parses their output.

use wherry_testing::{Daemon, Docker, Image, Outcome, Run};

/// Runs these lines of the kit, an image like `images::kit`, in one container with these options.
pub fn run(docker: &Docker, image: &Image, options: &[&str], lines: &[&str]) -> Outcome {
    docker.run(&Run::new(image).extra(options).args(&["do"]).args(lines))
}

/// Like [`run`], and asserts that every line succeeds; returns the output of each.
#[track_caller]
pub fn look(docker: &Docker, image: &Image, options: &[&str], lines: &[&str]) -> String {
    run(docker, image, options, lines).success()
}

/// The output of a line.
#[track_caller]
pub fn of<'s>(said: &'s str, line: &str) -> &'s str {
    let head = format!("$ {line}\n");
    let (_, after) = said.split_once(&head).unwrap_or_else(|| panic!("no '{line}' in {said}"));
    let end = if after.starts_with("$ ") {
        0
    } else {
        after.find("\n$ ").map_or(after.len(), |at| at + 1)
    };
    &after[..end]
}

/// The values behind a name in a file like `/proc/self/status`, after a colon or blanks.
#[track_caller]
pub fn field<'s>(said: &'s str, name: &str) -> Vec<&'s str> {
    let rest = said
        .lines()
        .find_map(|line| line.strip_prefix(name).filter(|rest| rest.starts_with([':', ' ', '\t'])));
    let rest = rest.unwrap_or_else(|| panic!("no '{name}' in {said}"));
    rest.trim_start_matches(':').split_whitespace().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_own() {
        let said = "$ list /\n$ read /a\none\n$ is a dollar\n$ read /b\nUid:\t1\t2\nMax size   7\n";
        assert_eq!(of(said, "list /"), "");
        assert_eq!(of(said, "read /b"), "Uid:\t1\t2\nMax size   7\n");
        assert_eq!(field(said, "Uid"), ["1", "2"]);
        assert_eq!(field(said, "Max size"), ["7"]);
    }
}
