//! The results: every value of every round, by measure and by runtime.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::measures::{MEASURES, Measure};
use crate::stats;

/// The runtime for comparison.
pub(crate) const RUNC: &str = "runc";
/// The shim that does nothing.
pub(crate) const NOTHING: &str = "nothing";

/// All values so far.
#[derive(Default)]
pub(crate) struct Results(BTreeMap<(String, String), Vec<f64>>);

impl Results {
    /// Adds the value of one round.
    pub(crate) fn add(&mut self, key: &str, who: &str, value: f64) {
        self.0.entry((key.to_owned(), who.to_owned())).or_default().push(value);
    }

    /// The values of a measure for a runtime, in the order of the rounds.
    pub(crate) fn values(&self, key: &str, who: &str) -> &[f64] {
        self.0.get(&(key.to_owned(), who.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// The median of the values, if there are any.
    pub(crate) fn median(&self, key: &str, who: &str) -> Option<f64> {
        stats::median(self.values(key, who))
    }

    /// The median of one runtime divided by that of another.
    pub(crate) fn ratio(&self, key: &str, who: &str, to: &str) -> Option<f64> {
        Some(self.median(key, who)? / self.median(key, to)?)
    }

    /// The measures that have a value for this runtime.
    pub(crate) fn measured(&self, who: &str) -> impl Iterator<Item = &'static Measure> {
        MEASURES.iter().filter(move |measure| !self.values(measure.key, who).is_empty())
    }

    /// Everything, in JSON.
    pub(crate) fn json(&self) -> Value {
        let of = |measure: &Measure| {
            let mut by_runtime = serde_json::Map::new();
            for ((key, who), values) in &self.0 {
                if key == measure.key {
                    let summary = json!({
                        "median": stats::median(values),
                        "deviation": stats::deviation(values),
                        "to_runc": self.ratio(key, who, RUNC),
                        "values": values,
                    });
                    by_runtime.insert(who.clone(), summary);
                }
            }
            json!({
                "key": measure.key,
                "what": measure.text,
                "unit": measure.unit.text(),
                "runtimes": by_runtime,
            })
        };
        MEASURES.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measures::{CTR_HELLO, START};

    #[test]
    fn a_ratio_is_one_of_medians() {
        let mut results = Results::default();
        for value in [1.0, 2.0, 9.0] {
            results.add(START, "some", value);
            results.add(START, RUNC, value * 4.0);
        }
        assert_eq!(results.ratio(START, "some", RUNC), Some(0.25));
        assert_eq!(results.ratio(CTR_HELLO, "some", RUNC), None);
        assert_eq!(
            results.measured("some").map(|measure| measure.key).collect::<Vec<_>>(),
            [START]
        );
    }
}
