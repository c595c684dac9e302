//! The package `regex` for libcontainer and oci-spec, which match two short options with it.
//!
//! The tables and the panic locations of regex are a third of the relocated data of an engine host,
//! which each guest's process has for itself: 170 KB per container. regex-lite has the same
//! interface, no tables, and ASCII classes: `\w` and `\d` match no other characters.

pub use regex_lite::*;
