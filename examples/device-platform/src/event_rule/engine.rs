//! All rules on all devices.

use std::collections::{HashMap, VecDeque};

use jiff::Timestamp;

use super::rule::{Rules, Transition, Watch};
use crate::messages::ReadingEnriched;

/// So many alerts of a device are remembered, to answer a repeated reading as the first time. Far more than may be in flight at once.
const REMEMBERED: usize = 256;

/// What came of a reading.
#[derive(Debug, Clone, PartialEq)]
pub enum Observed {
    /// It was the newest of its device; these alerts begin or end with it.
    Newest(Vec<Transition>),
    /// It, or a newer one of its device, was there before: the state did not change. These are the alerts that it gave the first time;
    /// they must be told again, since nobody knows whether the telling succeeded.
    Repeated(Vec<Transition>),
}

impl Observed {
    /// The alerts to tell of, in either case.
    #[must_use]
    pub fn into_transitions(self) -> Vec<Transition> {
        match self {
            Self::Newest(transitions) | Self::Repeated(transitions) => transitions,
        }
    }
}

/// The rules' state on every device.
///
/// Readings of one device are taken in the order of event time (and of their ids, where two have one time). A late reading, one that is
/// older than the newest of its device, is stored and aggregated by the platform but does not change the history of alerts.
///
/// The state lives in memory. After a restart it comes back by [`Engine::seed`] with the stored readings of a device, before the
/// device's first new reading is observed.
#[derive(Debug)]
pub struct Engine {
    rules: Rules,
    devices: HashMap<String, Device>,
}

#[derive(Debug)]
struct Device {
    newest: Position,
    watches: Vec<Watch>,
    told: VecDeque<(Position, Vec<Transition>)>,
}

type Position = (Timestamp, String);

fn position(reading: &ReadingEnriched) -> Position {
    (reading.at, reading.reading_id.clone())
}

impl Engine {
    /// Knows the rules and no device yet.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self { rules, devices: HashMap::new() }
    }

    /// Whether the device was seen or seeded before. Where it was not, [`Engine::seed`] it first.
    #[must_use]
    pub fn knows(&self, device_id: &str) -> bool {
        self.devices.contains_key(device_id)
    }

    /// Brings back the state of devices from their stored readings, oldest first.
    pub fn seed<'a>(&mut self, stored: impl IntoIterator<Item = &'a ReadingEnriched>) {
        for reading in stored {
            self.observe(reading);
        }
    }

    /// Takes a reading.
    pub fn observe(&mut self, reading: &ReadingEnriched) -> Observed {
        let position = position(reading);
        let device = self.devices.entry(reading.device_id.clone()).or_insert_with(|| Device {
            newest: (Timestamp::MIN, String::new()),
            watches: vec![Watch::default(); self.rules.iter().count()],
            told: VecDeque::new(),
        });
        if position <= device.newest {
            let told = device.told.iter().find(|(of, _)| *of == position);
            return Observed::Repeated(told.map(|(_, t)| t.clone()).unwrap_or_default());
        }
        let watched = self.rules.iter().zip(&mut device.watches);
        let transitions: Vec<_> = watched.filter_map(|(rule, watch)| watch.observe(rule, reading)).collect();
        device.newest.clone_from(&position);
        if !transitions.is_empty() {
            if device.told.len() == REMEMBERED {
                device.told.pop_front();
            }
            device.told.push_back((position, transitions.clone()));
        }
        Observed::Newest(transitions)
    }
}

/// The alerts that the rules give over some readings, by device: what the platform must have told of when it stored these readings in
/// the order of event time. The order in which they are given here does not matter.
#[must_use]
pub fn evaluate<'a>(
    rules: &Rules,
    readings: impl IntoIterator<Item = &'a ReadingEnriched>,
) -> Vec<(String, Transition)> {
    let mut readings: Vec<_> = readings.into_iter().collect();
    readings.sort_by(|a, b| (&a.device_id, a.at, &a.reading_id).cmp(&(&b.device_id, b.at, &b.reading_id)));
    readings.dedup_by(|a, b| a.reading_id == b.reading_id);
    let mut engine = Engine::new(rules.clone());
    readings
        .into_iter()
        .flat_map(|reading| {
            let transitions = engine.observe(reading).into_transitions();
            transitions.into_iter().map(|t| (reading.device_id.clone(), t))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device_hw::{Replay, Speed};
    use crate::messages::AlertState;
    use crate::processing::enrich;

    fn replayed() -> Vec<ReadingEnriched> {
        let replay = Replay::new(Speed::MAX).unwrap();
        replay.map(|due| enrich(due.row.id, due.row.reading).unwrap()).collect()
    }

    fn tell(engine: &mut Engine, readings: &[ReadingEnriched]) -> Vec<(String, Transition)> {
        let mut told: Vec<_> = readings
            .iter()
            .flat_map(|r| {
                let transitions = engine.observe(r).into_transitions();
                transitions.into_iter().map(|t| (r.device_id.clone(), t))
            })
            .collect();
        told.sort_by(|a, b| (&a.0, a.1.at, &a.1.rule).cmp(&(&b.0, b.1.at, &b.1.rule)));
        told
    }

    #[test]
    fn the_default_rules_give_a_handful_of_alerts_on_the_real_data() {
        let alerts = evaluate(&Rules::default(), &replayed());
        let count = |state| alerts.iter().filter(|(_, t)| t.state == state).count();
        assert_eq!((count(AlertState::Raised), count(AlertState::Cleared)), (8, 6));
    }

    #[test]
    fn the_running_engine_tells_what_the_offline_evaluation_tells() {
        let readings = replayed();
        let mut offline = evaluate(&Rules::default(), readings.iter().rev());
        offline.sort_by(|a, b| (&a.0, a.1.at, &a.1.rule).cmp(&(&b.0, b.1.at, &b.1.rule)));
        assert_eq!(tell(&mut Engine::new(Rules::default()), &readings), offline);
    }

    #[test]
    fn a_restart_at_any_point_changes_nothing() {
        let rules = Rules::default();
        let readings = replayed();
        let whole = tell(&mut Engine::new(rules.clone()), &readings);
        for cut in (0..readings.len()).step_by(3_001) {
            let (before, after) = readings.split_at(cut);
            let mut told = tell(&mut Engine::new(rules.clone()), before);
            let mut restarted = Engine::new(rules.clone());
            restarted.seed(before);
            told.extend(tell(&mut restarted, after));
            told.sort_by(|a, b| (&a.0, a.1.at, &a.1.rule).cmp(&(&b.0, b.1.at, &b.1.rule)));
            assert_eq!(told, whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_repeated_reading_tells_the_same_again() {
        let readings = replayed();
        let mut engine = Engine::new(Rules::default());
        let first = tell(&mut engine, &readings);
        assert_eq!(tell(&mut engine, &readings), first);
    }

    #[test]
    fn a_late_reading_changes_nothing() {
        let mut readings = replayed();
        readings.retain(|r| r.device_id == "office-c");
        let mut engine = Engine::new(Rules::default());
        let whole = tell(&mut engine, &readings);
        let late = ReadingEnriched { reading_id: "late".to_owned(), co2: 0.0, ..readings[100].clone() };
        assert_eq!(engine.observe(&late), Observed::Repeated(vec![]));
        assert_eq!(tell(&mut engine, &readings), whole);
    }
}
