//! The administrator's settings: variables in the environment of containerd, which shims inherit,
//! or of `wherry-E`.

use std::env::VarError;
use std::path::{Path, PathBuf};

use wherry_image::{Cache, MODULE_MAX};
use wherry_protocol::compile::Bounds;

/// The directory of compiled code.
const CACHE_DIR: (&str, &str) = ("WHERRY_CACHE_DIR", "/var/lib/wherry/cache");
/// The size of the cache, bytes.
const CACHE_SIZE: (&str, u64) = ("WHERRY_CACHE_SIZE", 2 << 30);
/// The size of a module, bytes.
const MODULE_SIZE: (&str, u64) = ("WHERRY_MODULE_SIZE", MODULE_MAX);
/// A module's code may have the size of the cache, within these bounds, bytes. A small cache slows
/// starts down, but does not refuse modules.
const CODE: (u64, u64) = (256 << 20, 4 << 30);
/// The memory of one compilation, bytes.
const COMPILE_MEMORY: (&str, u64) = ("WHERRY_COMPILE_MEMORY", 4 << 30);
/// The time of one compilation, seconds.
const COMPILE_SECONDS: (&str, u64) = ("WHERRY_COMPILE_SECONDS", 600);

/// The settings.
#[derive(Debug)]
pub struct Settings {
    cache_dir: PathBuf,
    cache_size: u64,
    /// The limits of a compilation.
    pub bounds: Bounds,
    /// One sentence for each variable that is invalid and ignored.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Reads the environment.
    #[must_use]
    pub fn read() -> Settings {
        let mut invalid = Vec::new();
        let mut settings = Settings::from(|name| match std::env::var(name) {
            Ok(text) => Some(text),
            Err(VarError::NotPresent) => None,
            Err(VarError::NotUnicode(text)) => {
                invalid.push(format!("ignored {name}={text:?}: it is not UTF-8"));
                None
            }
        });
        settings.warnings.append(&mut invalid);
        settings
    }

    fn from(mut variable: impl FnMut(&str) -> Option<String>) -> Settings {
        let mut warnings = Vec::new();
        let mut size = |(name, default): (&str, u64)| {
            let Some(text) = variable(name).filter(|text| !text.is_empty()) else { return default };
            size(&text).unwrap_or_else(|| {
                warnings.push(format!(
                    "ignored {name}={text}: expected a number such as 512MiB; using {default}"
                ));
                default
            })
        };
        let cache_size = size(CACHE_SIZE);
        let bounds = Bounds {
            memory: size(COMPILE_MEMORY),
            seconds: size(COMPILE_SECONDS),
            module: size(MODULE_SIZE),
            code: cache_size.clamp(CODE.0, CODE.1),
        };
        let (name, default) = CACHE_DIR;
        let cache_dir = match variable(name) {
            Some(text) if Path::new(&text).is_absolute() => text,
            Some(text) => {
                warnings.push(format!(
                    "ignored {name}={text}: expected an absolute path; using {default}"
                ));
                default.to_owned()
            }
            None => default.to_owned(),
        };
        let cache_dir = cache_dir.into();
        Settings { cache_dir, cache_size, bounds, warnings }
    }

    /// Returns the cache of compiled code of an engine.
    #[must_use]
    pub fn cache(&self, engine: &str) -> Cache {
        let cache = Cache::new(self.cache_dir.clone(), engine, self.cache_size);
        cache.with_modules_up_to(self.bounds.module)
    }
}

/// Parses a number with an optional unit: `4096`, `512M`, `2GiB`.
fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().trim_end_matches("ib") {
        "" | "b" => 0,
        "k" | "kb" => 10,
        "m" | "mb" => 20,
        "g" | "gb" => 30,
        "t" | "tb" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(size("4096"), Some(4096));
        assert_eq!(size("512M"), Some(512 << 20));
        assert_eq!((size("2GiB"), size("2 gb")), (Some(2 << 30), Some(2 << 30)));
        for wrong in ["", "G", "-1", "1.5G", "12 apples", "99999999999T"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn code_is_bounded_by_the_caches_size_within_reason() {
        let code = |size: &str| {
            let of = |name: &str| (name == "WHERRY_CACHE_SIZE").then(|| size.to_owned());
            Settings::from(of).bounds.code
        };
        assert_eq!([code("1GiB"), code("0"), code("1T")], [1 << 30, 256 << 20, 4 << 30]);
    }

    #[test]
    fn what_cannot_be_read_is_said_and_the_usual_value_holds() {
        let config = Settings::from(|name| match name {
            "WHERRY_CACHE_SIZE" => Some("lots".into()),
            "WHERRY_CACHE_DIR" => Some("relative".into()),
            "WHERRY_COMPILE_SECONDS" => Some("7".into()),
            _ => None,
        });
        assert_eq!((config.cache_size, config.bounds.seconds), (2 << 30, 7));
        assert_eq!(config.bounds.module, 1 << 30);
        assert_eq!(config.cache_dir, Path::new("/var/lib/wherry/cache"));
        assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
    }
}
