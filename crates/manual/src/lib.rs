//! Completion scripts and man pages, generated from the definition of a command line.

use std::fs;
use std::io;
use std::path::Path;

use clap_complete::{Shell, generate};
use clap_mangen::Man;

/// Returns the completion script of a shell.
#[must_use]
pub fn completions(mut command: clap::Command, shell: Shell) -> String {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    generate(shell, &mut command, name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes a page for the program and for each of its commands. Returns the text to print.
///
/// # Errors
/// If a page cannot be written to the directory.
pub fn write_pages(mut command: clap::Command, directory: &Path) -> io::Result<String> {
    command.build();
    let mut names = Vec::new();
    write(&command, directory, &mut names)?;
    Ok(format!("wrote {} to {}\n", names.join(", "), directory.display()))
}

fn write(command: &clap::Command, directory: &Path, names: &mut Vec<String>) -> io::Result<()> {
    // The name of a nested command's page is its path: wherry-wasmtime-cache-ls.1.
    let name = command.get_bin_name().unwrap_or(command.get_name()).replace(' ', "-");
    let mut page = Vec::new();
    // The line with the version is the page's footer.
    let named = command.clone().name(name.clone()).before_help(None::<&str>);
    Man::new(named).render(&mut page)?;
    let file = format!("{name}.1");
    fs::write(directory.join(&file), page)?;
    names.push(file);
    for nested in command.get_subcommands().filter(|nested| nested.get_name() != "help") {
        write(nested, directory, names)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> clap::Command {
        let ls = clap::Command::new("ls").arg(clap::Arg::new("json").long("json"));
        let cache = clap::Command::new("cache").about("Manages the cache").subcommand(ls);
        clap::Command::new("wherry-e").bin_name("wherry-e").subcommand(cache)
    }

    #[test]
    fn each_command_has_a_page_with_its_options() {
        let directory = tempfile::tempdir().unwrap();
        let printed = write_pages(command(), directory.path()).unwrap();
        let page = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(page("wherry-e.1").contains("Manages the cache"), "{printed}");
        assert!(page("wherry-e-cache-ls.1").contains("json"), "{printed}");
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let error = write_pages(command(), Path::new("/no/such/place")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn scripts_name_the_program_and_its_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = completions(command(), shell);
            assert!(script.contains("wherry-e") && script.contains("cache"), "{shell}");
        }
    }
}
