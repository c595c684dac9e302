//! The parts of a run, a file for each.

pub(crate) mod cold;
pub(crate) mod ctr;
pub(crate) mod direct;
pub(crate) mod docker;
pub(crate) mod idle;
pub(crate) mod images;
pub(crate) mod many;
pub(crate) mod memory;
pub(crate) mod pod;
pub(crate) mod shared;
pub(crate) mod sizes;
