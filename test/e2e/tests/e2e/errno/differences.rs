//! The error numbers of a guest that are not those of a native program, with the reasons.

/// An error number that differs.
pub(super) struct Difference {
    /// The fault, as `test/guests/faults.c` names it.
    pub(super) fault: &'static str,
    pub(super) native: &'static str,
    pub(super) ours: &'static str,
    /// The engines and forms of a guest that the row applies to.
    pub(super) subjects: &'static [[&'static str; 2]],
    pub(super) reason: &'static str,
}

pub(super) const DIFFERENCES: &[Difference] = &[];
