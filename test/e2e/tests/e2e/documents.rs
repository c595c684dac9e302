//! The documents agree with the code: Dockerfiles of the README, and variables and options of the
//! configuration.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use wherry_testing::repository;

fn read(path: impl AsRef<Path>) -> String {
    let path = repository().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The files of a folder, at any depth.
fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut found = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path.display().to_string());
        }
    }
    found
}

/// The variables of this project in a text, without those that unit tests pass to themselves.
fn variables(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_ascii_uppercase() && !c.is_ascii_digit() && c != '_')
        .filter(|word| word.strip_prefix("WHERRY_").is_some_and(|name| !name.is_empty()))
        .filter(|word| !word.starts_with("WHERRY_TEST_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_readme_shows_the_dockerfiles_as_they_are() {
    let readme = read("README.md");
    for folder in ["rust", "go", "c", "python"] {
        let text = read(format!("examples/{folder}/Dockerfile"));
        assert!(readme.contains(&format!("```Dockerfile\n{text}```")), "{folder}");
    }
}

#[test]
fn every_variable_is_documented() {
    let root = repository();
    let folders = ["crates", "shims", "test"].map(|folder| root.join(folder));
    let sources = folders.iter().flat_map(|folder| files(folder));
    let sources = sources.filter(|path| path.ends_with(".rs") || path.ends_with(".sh"));
    let used: BTreeSet<String> = sources.flat_map(|path| variables(&read(path))).collect();
    assert!(used.contains("WHERRY_CACHE_DIR"), "{used:?}");
    let documented: BTreeSet<String> =
        variables(&read("docs/configuration.md")).into_iter().collect();
    let missing: Vec<&String> = used.difference(&documented).collect();
    let obsolete: Vec<&String> = documented.difference(&used).collect();
    assert!(missing.is_empty(), "not in docs/configuration.md: {missing:?}");
    assert!(obsolete.is_empty(), "in docs/configuration.md alone: {obsolete:?}");
}

#[test]
fn every_runtime_option_is_documented() {
    let source = read("crates/protocol/src/options.rs");
    let fields = source.split("pub struct RuntimeOptions {").nth(1).expect("the struct of options");
    let fields = fields.split("\n}").next().unwrap_or_default();
    let names = fields.lines().filter_map(|line| line.trim().strip_prefix("pub "));
    let names = names.filter_map(|line| line.split(':').next()).collect::<Vec<_>>();
    assert!(names.contains(&"systemd_cgroup"), "{names:?}");
    let document = read("docs/configuration.md");
    for name in names {
        let option: String =
            name.split('_').map(|word| word[..1].to_ascii_uppercase() + &word[1..]).collect();
        assert!(document.contains(&format!("`{option}`")), "not documented: {option}");
    }
}

#[test]
fn every_link_between_documents_leads_to_a_file() {
    // May be missing.
    let planned = ["docs/kubernetes.md"];
    let root = repository();
    let mut documents = vec!["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"]
        .into_iter()
        .map(|name| root.join(name).display().to_string())
        .collect::<Vec<_>>();
    documents.extend(["docs", "examples"].iter().flat_map(|folder| files(&root.join(folder))));
    for document in documents.iter().filter(|path| path.ends_with(".md")) {
        let text = read(document);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || planned.contains(&target) {
                continue;
            }
            let folder = Path::new(document).parent().expect("a file has a folder");
            assert!(folder.join(target).exists(), "{document}: {link}");
        }
    }
}
