//! Filters: what the service sorts out itself where several topics share a Pub/Sub topic.
//!
//! What a filter sorts out counts as settled, and a filter cannot be changed. So one is taken for what its group wants only where
//! everything passes that the group takes, whoever made the subscription. A message that names no topic of msgkit's passes each
//! of them: what it is for, only its reader can tell.

use std::collections::BTreeSet;

use msgkit::Pattern;

use crate::names::ANY;

/// The longest filter that the service takes, in bytes.
const LONGEST: usize = 256;
/// What every filter of ours begins with.
const UNNAMED: &str = "(NOT attributes:ce-topic)";
const OR: &str = " OR ";

/// The filter for `patterns` on the topic `place`; none where all of it is wanted, or where a filter could not say what is.
pub(crate) fn of(patterns: &[Pattern], place: &str) -> Option<String> {
    if patterns.iter().any(|pattern| takes_all(pattern, place)) {
        return None;
    }
    let filter = [UNNAMED.to_owned()].into_iter().chain(terms(patterns)?).collect::<Vec<_>>().join(OR);
    (filter.len() <= LONGEST).then_some(filter)
}

/// Whether everything of `patterns` passes the filter of a subscription that is there. `None`: it is none of ours.
pub(crate) fn passes(filter: &str, patterns: &[Pattern]) -> Option<bool> {
    if filter.is_empty() {
        return Some(true);
    }
    let mut there = filter.split(OR);
    if there.next() != Some(UNNAMED) {
        return None;
    }
    let there: BTreeSet<&str> = there.collect();
    Some(terms(patterns).is_some_and(|terms| terms.iter().all(|term| there.contains(term.as_str()))))
}

/// Whether each topic in `place`, whatever its dynamic segments hold, matches `pattern`.
fn takes_all(pattern: &Pattern, place: &str) -> bool {
    let any: Vec<&str> =
        place.split('.').map(|segment| if segment == ANY { "any--any" } else { segment }).collect();
    any.join(".").parse().is_ok_and(|topic| pattern.matches(&topic))
}

/// What a message's topic is compared with; `None` where nothing is known of how it begins.
fn terms(patterns: &[Pattern]) -> Option<BTreeSet<String>> {
    patterns.iter().map(term).collect()
}

fn term(pattern: &Pattern) -> Option<String> {
    if pattern.is_exact() {
        return Some(format!("attributes.ce-topic = \"{pattern}\""));
    }
    let pattern = pattern.as_str();
    let begin = &pattern[..pattern.find(['*', '>'])?];
    (!begin.is_empty()).then(|| format!("hasPrefix(attributes.ce-topic, \"{begin}\")"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_filter_says_what_is_wanted_where_not_all_is() {
        let one = "(NOT attributes:ce-topic) OR attributes.ce-topic = \"device.7.raw\"";
        assert_eq!(of(&patterns(&["device.7.raw"]), "device._.raw").as_deref(), Some(one));
        let two = "(NOT attributes:ce-topic) OR attributes.ce-topic = \"x\" OR hasPrefix(attributes.ce-topic, \"device.7.\")";
        assert_eq!(of(&patterns(&["device.7.*.a", "x"]), "all").as_deref(), Some(two));
        for (wanted, place) in [
            (&["device.*.raw"][..], "device._.raw"),
            (&["orders"], "orders"),
            (&["a._x"], "a._x"),
            (&["device.7.raw", ">"], "device._.raw"),
            (&["*.raw"], "device._"),
            (&["device.7.raw", "*.seven.raw"], "device._.raw"),
        ] {
            assert_eq!(of(&patterns(wanted), place), None, "{wanted:?} of {place}");
        }
        let long: Vec<String> = (0..9).map(|n| format!("device.{n}.{}", "x".repeat(20))).collect();
        let long: Vec<&str> = long.iter().map(String::as_str).collect();
        assert_eq!(of(&patterns(&long), "all"), None, "the service would refuse it");
    }

    #[test]
    fn a_filter_that_is_there_must_let_pass_what_is_wanted() {
        let there = of(&patterns(&["device.7.raw", "device.8.raw"]), "device._.raw").unwrap();
        assert_eq!(passes(&there, &patterns(&["device.8.raw"])), Some(true));
        assert_eq!(passes(&there, &patterns(&["device.8.raw", "device.9.raw"])), Some(false));
        assert_eq!(passes(&there, &patterns(&[">"])), Some(false));
        assert_eq!(passes("", &patterns(&[">"])), Some(true));
        assert_eq!(passes("attributes.env = \"a\"", &patterns(&["a"])), None);
    }
}
