//! Images and artifacts of WebAssembly.
//!
//! | module | subject |
//! |---|---|
//! | [`module`] | a binary: its imports, exports and needs, and the engines that run it |
//! | [`media`] | media types, and the ways to package WebAssembly |
//! | [`blob`], [`image`] | content by its digest: manifests, configurations, layers |
//! | [`layout`] | OCI layouts, as a directory and as a tar archive |
//! | [`build`], [`artifact`] | new images and artifacts |
//! | [`convert`] | artifacts to images, and back |
//! | [`files`], `entries` | the files in an image's layers |
//! | [`program`] | the file that an image runs |
//! | [`inspect`] | the description of an image or artifact |
//! | [`registry`] | pull and push |
//! | [`daemon`] | the stores of containerd and Docker |
//!
//! Every image that this crate makes is reproducible: it has no times but a given one, its JSON has
//! sorted keys, and its layers are not compressed.

pub mod artifact;
pub mod blob;
pub mod build;
pub mod convert;
pub mod daemon;
mod entries;
mod error;
pub mod files;
pub mod image;
pub mod inspect;
pub mod layout;
pub mod media;
pub mod module;
pub mod program;
pub mod progress;
#[cfg(feature = "registry")]
pub mod registry;

pub use blob::Data;
pub use error::{OciError, Result};
pub use image::{Image, Platform};
pub use progress::{Progress, Silent};
pub use wherry_image::Size;
