//! A rule, and the state machine that follows it.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::messages::{AlertState, Quantity, ReadingEnriched};

/// On which side of its threshold a quantity is out of bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Too much.
    Above,
    /// Too little.
    Below,
}

/// When to raise an alert, and when to clear it.
///
/// ```
/// # use device_platform::event_rule::Rules;
/// let rules = Rules::from_toml(r#"
///     [[rules]]
///     name = "stale-air"
///     quantity = "co2"
///     bound = "above"
///     threshold = 1200      # raised when beyond this …
///     for_seconds = 300     # … in every reading for so long (by event time; 0: at once)
///     clear = 1000          # cleared when back behind this
/// "#)?;
/// assert_eq!(rules.iter().count(), 1);
/// # Ok::<_, device_platform::event_rule::RuleError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The name, unique among the rules.
    pub name: String,
    /// What is watched.
    pub quantity: Quantity,
    /// On which side of the threshold it is out of bounds.
    pub bound: Bound,
    /// The limit. The value itself is still good.
    pub threshold: f64,
    /// Where the alert is over, at or on the good side of the threshold: the distance between the two keeps an alert from flapping.
    pub clear: f64,
    /// How long the quantity must be out of bounds before the alert is raised.
    #[serde(default)]
    pub for_seconds: u32,
}

impl Rule {
    fn is_out_of_bounds(&self, value: f64) -> bool {
        match self.bound {
            Bound::Above => value > self.threshold,
            Bound::Below => value < self.threshold,
        }
    }

    fn is_clear(&self, value: f64) -> bool {
        match self.bound {
            Bound::Above => value <= self.clear,
            Bound::Below => value >= self.clear,
        }
    }

    fn check(&self) -> Result<(), RuleError> {
        let problem = if self.name.is_empty() {
            "has no name".to_owned()
        } else if !self.threshold.is_finite() || !self.clear.is_finite() {
            "threshold and clear must be numbers".to_owned()
        } else if self.is_out_of_bounds(self.clear) {
            let (bound, Self { clear, threshold, .. }) =
                (if self.bound == Bound::Above { "above" } else { "below" }, self);
            format!("clear = {clear} is itself {bound} the threshold {threshold}: the alert would never rest")
        } else {
            return Ok(());
        };
        Err(RuleError::Invalid { rule: self.name.clone(), problem })
    }
}

/// Rules that make sense together: each valid, no two of one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules(Vec<Rule>);

/// A rule that cannot be followed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// The text is not what is expected.
    #[error("the rules cannot be read: {0}")]
    Syntax(String),
    /// A rule contradicts itself.
    #[error("rule `{rule}`: {problem}")]
    Invalid {
        /// Its name.
        rule: String,
        /// What is wrong.
        problem: String,
    },
    /// Two rules have one name.
    #[error("rule `{0}` is there twice: names must differ, an alert is known by device and rule")]
    Twice(String),
}

impl Rules {
    /// Checks the rules.
    ///
    /// # Errors
    /// Names the first rule that contradicts itself or another one.
    pub fn new(rules: Vec<Rule>) -> Result<Self, RuleError> {
        let mut names = HashSet::new();
        for rule in &rules {
            rule.check()?;
            if !names.insert(&rule.name) {
                return Err(RuleError::Twice(rule.name.clone()));
            }
        }
        Ok(Self(rules))
    }

    /// Reads rules from TOML: an array of tables `[[rules]]`.
    ///
    /// # Errors
    /// As [`Rules::new`], and where the text is not TOML, a key is missing or unknown.
    pub fn from_toml(text: &str) -> Result<Self, RuleError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            rules: Vec<Rule>,
        }
        let file: File = toml::from_str(text).map_err(|e| RuleError::Syntax(e.to_string()))?;
        Self::new(file.rules)
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter()
    }
}

/// What an office should be like: not too warm, not too cold, not stuffy, not too dry.
impl Default for Rules {
    fn default() -> Self {
        let rule = |name: &str, quantity, bound, threshold, clear, for_seconds| Rule {
            name: name.to_owned(),
            quantity,
            bound,
            threshold,
            clear,
            for_seconds,
        };
        Self(vec![
            rule("too-warm", Quantity::Temperature, Bound::Above, 24.0, 23.5, 600),
            rule("too-cold", Quantity::Temperature, Bound::Below, 19.2, 19.6, 1800),
            rule("stale-air", Quantity::Co2, Bound::Above, 1200.0, 1000.0, 300),
            rule("dry-air", Quantity::Humidity, Bound::Below, 22.0, 23.0, 1800),
        ])
    }
}

/// An alert that begins or ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    /// Which of the two.
    pub state: AlertState,
    /// The rule's name.
    pub rule: String,
    /// What the rule looks at.
    pub quantity: Quantity,
    /// The value that decided.
    pub value: f64,
    /// The limit that was crossed: the threshold, or the clear limit on the way back.
    pub threshold: f64,
    /// The time of the reading that decided.
    pub at: Timestamp,
}

/// The state of one rule on one device. A plain value: a function of the readings it has seen, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Watch {
    /// All is well.
    #[default]
    Good,
    /// Out of bounds since then, not yet for long enough.
    Suspicious {
        /// The time of the first reading that was.
        since: Timestamp,
    },
    /// The alert is up.
    Alerting,
}

impl Watch {
    /// Takes the next reading of the device; gives the alert that it raises or clears.
    pub fn observe(&mut self, rule: &Rule, reading: &ReadingEnriched) -> Option<Transition> {
        let value = reading.value(rule.quantity);
        let transition = |state, threshold| Transition {
            state,
            rule: rule.name.clone(),
            quantity: rule.quantity,
            value,
            threshold,
            at: reading.at,
        };
        if *self == Self::Alerting {
            if !rule.is_clear(value) {
                return None;
            }
            *self = Self::Good;
            return Some(transition(AlertState::Cleared, rule.clear));
        }
        if !rule.is_out_of_bounds(value) {
            *self = Self::Good;
            return None;
        }
        let since = if let Self::Suspicious { since } = *self { since } else { reading.at };
        let lasted = Duration::try_from(reading.at.duration_since(since)).unwrap_or_default();
        if lasted < Duration::from_secs(rule.for_seconds.into()) {
            *self = Self::Suspicious { since };
            return None;
        }
        *self = Self::Alerting;
        Some(transition(AlertState::Raised, rule.threshold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> Rule {
        Rules::default().iter().find(|r| r.name == "stale-air").unwrap().clone()
    }

    fn reading(minute: i64, co2: f64) -> ReadingEnriched {
        ReadingEnriched {
            reading_id: minute.to_string(),
            device_id: "d".to_owned(),
            temperature: 21.0,
            humidity: 40.0,
            light: 0.0,
            co2,
            humidity_ratio: 0.006,
            at: Timestamp::from_second(minute * 60).unwrap(),
        }
    }

    fn run(values: &[f64]) -> Vec<(usize, AlertState)> {
        let mut watch = Watch::default();
        let observe = |(minute, co2): (usize, &f64)| {
            watch.observe(&rule(), &reading(minute as i64, *co2)).map(|t| (minute, t.state))
        };
        values.iter().enumerate().filter_map(observe).collect()
    }

    #[test]
    fn raises_after_its_time_and_clears_below_the_clear_limit() {
        use AlertState::{Cleared, Raised};
        let values = [1100., 1300., 1300., 1300., 1300., 1300., 1300., 1300., 1100., 1000.1, 1000., 900.];
        assert_eq!(run(&values), [(6, Raised), (10, Cleared)]);
    }

    #[test]
    fn one_good_reading_starts_the_time_again() {
        assert_eq!(run(&[1300., 1300., 1300., 1300., 1300., 1200., 1300., 1300., 1300., 1300., 1300.]), []);
    }

    #[test]
    fn does_not_flap_between_the_two_limits() {
        let mut values = vec![1300.; 6];
        values.extend([1190., 1210.].repeat(10));
        assert_eq!(run(&values).len(), 1);
    }

    #[test]
    fn without_a_duration_the_first_reading_raises() {
        let rule = Rule { for_seconds: 0, bound: Bound::Below, threshold: 400.0, clear: 410.0, ..rule() };
        let raised = Watch::default().observe(&rule, &reading(0, 399.0)).unwrap();
        assert_eq!((raised.state, raised.value, raised.threshold), (AlertState::Raised, 399.0, 400.0));
        assert_eq!(Watch::default().observe(&rule, &reading(0, 400.0)), None);
    }

    #[test]
    fn a_rule_that_contradicts_itself_is_refused_with_the_reason() {
        let error = |rule| Rules::new(vec![rule]).unwrap_err().to_string();
        assert_eq!(
            error(Rule { clear: 1300.0, ..rule() }),
            "rule `stale-air`: clear = 1300 is itself above the threshold 1200: the alert would never rest"
        );
        assert_eq!(
            error(Rule { threshold: f64::NAN, ..rule() }),
            "rule `stale-air`: threshold and clear must be numbers"
        );
        assert_eq!(
            Rules::new(vec![rule(), rule()]).unwrap_err().to_string(),
            "rule `stale-air` is there twice: names must differ, an alert is known by device and rule"
        );
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_known_ones() {
        let text = "[[rules]]\nname='a'\nquantity='co2'\nbound='above'\nthreshhold=1\nclear=1\n";
        let error = Rules::from_toml(text).unwrap_err().to_string();
        assert!(error.contains("threshhold") && error.contains("`threshold`"), "{error}");
    }

    #[test]
    fn the_defaults_are_valid() {
        let Rules(rules) = Rules::default();
        assert_eq!(Rules::new(rules.clone()).unwrap(), Rules(rules));
    }
}
