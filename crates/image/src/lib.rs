//! What to run: which file a container's arguments name ([`entrypoint`]), what that file is
//! ([`kind`]), how large it may be ([`size`]), which layer it belongs to ([`overlay`]), and where
//! its compiled code is kept ([`cache`]).

pub mod cache;
pub mod entrypoint;
pub mod kind;
pub mod overlay;
pub mod size;

pub use cache::{Cache, CacheError, CacheEvent, Code, Compiler, Module, View};
pub use entrypoint::{Entrypoint, EntrypointError, Look, NoFile, strip_init};
pub use kind::Kind;
pub use size::{MODULE_MAX, Size, SizeError, check_size, read_all};
