//! What to run: which file a container's arguments name ([`entrypoint`]), what that file is
//! ([`kind`]), and where its compiled code is kept ([`cache`]).

pub mod cache;
pub mod entrypoint;
pub mod kind;

pub use cache::{Cache, CacheError, Code, Compiler, Module, Note, Size};
pub use entrypoint::{Entrypoint, EntrypointError, behind_init};
pub use kind::Kind;
