//! The package `regex` for libcontainer and oci-spec, which match two short options with it, and
//! for bindgen, which runs in builds.
//!
//! The tables and the panic locations of regex are a third of the relocated data of an engine host,
//! which each guest's process has for itself: 150 KB per container. regex-lite has the same
//! interface, no tables, and ASCII classes: `\w` and `\d` match no other characters.

use std::iter::Copied;
use std::slice;

pub use regex_lite::*;

/// Several expressions, which are matched one after the other. bindgen needs the type.
#[derive(Clone, Debug)]
pub struct RegexSet(Vec<Regex>);

/// The indices of the expressions that match.
#[derive(Clone, Debug)]
pub struct SetMatches(Vec<usize>);

impl RegexSet {
    /// Compiles the expressions.
    ///
    /// # Errors
    /// If one is invalid.
    pub fn new<E: AsRef<str>>(expressions: impl IntoIterator<Item = E>) -> Result<Self, Error> {
        let compiled = expressions.into_iter().map(|expression| Regex::new(expression.as_ref()));
        compiled.collect::<Result<_, _>>().map(RegexSet)
    }

    /// Whether any expression matches.
    #[must_use]
    pub fn is_match(&self, text: &str) -> bool {
        self.0.iter().any(|regex| regex.is_match(text))
    }

    /// Matches each expression.
    #[must_use]
    pub fn matches(&self, text: &str) -> SetMatches {
        let matching = self.0.iter().enumerate().filter(|(_, regex)| regex.is_match(text));
        SetMatches(matching.map(|(index, _)| index).collect())
    }
}

impl SetMatches {
    /// Whether any expression matches.
    #[must_use]
    pub fn matched_any(&self) -> bool {
        !self.0.is_empty()
    }

    /// The indices, in ascending order.
    pub fn iter(&self) -> Copied<slice::Iter<'_, usize>> {
        self.0.iter().copied()
    }
}

impl<'a> IntoIterator for &'a SetMatches {
    type Item = usize;
    type IntoIter = Copied<slice::Iter<'a, usize>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_knows_which_of_its_expressions_match() {
        let set = RegexSet::new(["^a.*$", "b", "^b"]).unwrap();
        assert_eq!(set.matches("ab").iter().collect::<Vec<_>>(), [0, 1]);
        assert!(!set.matches("c").matched_any() && !set.is_match("c") && set.is_match("b"));
        assert!(RegexSet::new(["("]).is_err());
    }
}
