//! The conditions of a start, passed from the guest's process to the compiler.

use crate::SERVER;

/// The conditions of a start that depend on the container besides the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Start {
    /// The requested function, as in [`Guest::function`](crate::Guest::function).
    pub function: Option<String>,
    /// The names of the import modules that loaded plug-ins provide.
    pub plugin_modules: Vec<String>,
}

/// The prefixes of the arguments.
const DEFAULT: &str = "--start";
const FUNCTION: &str = "--start=";
const PLUGIN: &str = "--plugin=";

impl Start {
    /// Whether the component was requested to start as a server: see [`SERVER`].
    #[must_use]
    pub fn is_server(&self) -> bool {
        self.function.as_deref() == Some(SERVER)
    }

    /// Returns the arguments that describe this start to `wherry-E compile`.
    #[must_use]
    pub fn to_args(&self) -> Vec<String> {
        let function = self.function.as_ref().map(|function| format!("{FUNCTION}{function}"));
        let plugins = self.plugin_modules.iter().map(|module| format!("{PLUGIN}{module}"));
        [function.unwrap_or_else(|| DEFAULT.to_owned())].into_iter().chain(plugins).collect()
    }

    /// Parses the arguments of [`Start::to_args`]. `None`: they do not describe a start.
    #[must_use]
    pub fn from_args(args: &[String]) -> Option<Start> {
        let (first, plugins) = args.split_first()?;
        let function = match first.strip_prefix(FUNCTION) {
            Some(function) => Some(function.to_owned()),
            None if first == DEFAULT => None,
            None => return None,
        };
        let plugins = plugins.iter().map(|arg| arg.strip_prefix(PLUGIN).map(str::to_owned));
        Some(Start { function, plugin_modules: plugins.collect::<Option<_>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_survives_the_way_through_arguments() {
        let modules = vec!["wasi_nn".to_owned()];
        for start in [
            Start::default(),
            Start { function: Some(String::new()), ..Start::default() },
            Start { function: Some("--start".to_owned()), plugin_modules: modules },
        ] {
            assert_eq!(Start::from_args(&start.to_args()), Some(start));
        }
        for args in [&[][..], &["x"], &["--start", "x"]] {
            let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
            assert_eq!(Start::from_args(&args), None);
        }
    }
}
