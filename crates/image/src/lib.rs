//! The program of a container: the file that its arguments name ([`entrypoint`]), that file's kind
//! ([`kind`]) and size limit ([`size`]), and the cache of compiled code ([`cache`]).

pub mod cache;
pub mod entrypoint;
pub mod kind;
pub mod size;

pub use cache::{Cache, CacheError, CacheEvent, Code, Compiler, Module, View};
pub use entrypoint::{Entrypoint, EntrypointError, strip_init};
pub use kind::Kind;
pub use size::{MODULE_MAX, Size, SizeError, check_size};
