//! The program of a container: the file that the arguments name ([`entrypoint`]), its kind
//! ([`kind`]), its maximum size ([`size`]), the image layer that it belongs to ([`overlay`]), and
//! the cache of its compiled code ([`cache`]).

pub mod cache;
pub mod entrypoint;
pub mod kind;
pub mod overlay;
pub mod size;

pub use cache::{Cache, CacheError, CacheEvent, Code, Compiler, Module, View};
pub use entrypoint::{Entrypoint, EntrypointError, Look, NoFile, strip_init};
pub use kind::Kind;
pub use size::{MODULE_MAX, Size, SizeError, check_size, read_all};
