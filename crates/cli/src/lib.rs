//! The commands of the executable `wherry-E`.

mod run;

pub use run::run;
