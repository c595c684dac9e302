//! Completion scripts and man pages, generated from the command line's definition.

use std::fs;
use std::io;
use std::path::Path;

use clap_complete::{Shell, generate};
use clap_mangen::Man;

use crate::error::{Error, Result};

/// Returns the completion script of a shell.
pub(crate) fn completions(mut command: clap::Command, shell: Shell) -> String {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    generate(shell, &mut command, name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes a page for the program and for each of its commands. Returns the text to print.
pub(crate) fn write_pages(mut command: clap::Command, directory: &Path) -> Result<String> {
    command.build();
    let mut names = Vec::new();
    write(&command, directory, &mut names)
        .map_err(|source| Error::Write { path: directory.to_owned(), source })?;
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
    use crate::args;

    #[test]
    fn each_command_has_a_page_with_its_options() {
        let directory = tempfile::tempdir().unwrap();
        let said = write_pages(args::command("wherry-e", "1"), directory.path()).unwrap();
        let page = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(page("wherry-e.1").contains("completions"), "{said}");
        assert!(page("wherry-e-cache-prune.1").contains("older\\-than"), "{said}");
        assert!(page("wherry-e-run.1").contains("HOST[::GUEST]"), "{said}");
    }

    #[test]
    fn a_missing_directory_is_named() {
        let command = args::command("wherry-e", "1");
        let error = write_pages(command, Path::new("/no/such/place")).unwrap_err().to_string();
        assert!(error.starts_with("cannot write /no/such/place: No such file"), "{error}");
    }

    #[test]
    fn scripts_name_the_program_and_its_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = completions(args::command("wherry-e", "1"), shell);
            assert!(script.contains("wherry-e") && script.contains("prune"), "{shell}");
        }
    }
}
