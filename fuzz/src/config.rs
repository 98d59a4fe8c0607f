//! A service's configuration: TOML, and behind a line `---` variables `NAME=value`. Each line is also read as a duration
//! and as a typed value.

use std::collections::HashSet;

use msgkit::config::{Settings, duration, nearest};
use msgkit::transport::TransportUrl;
use msgkit::{Pattern, Policy, Topic};

use crate::refusal;

/// Panics where a promise does not hold for these bytes.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for line in text.lines().take(20) {
        check_duration(line);
        check_nearest(line);
    }
    let (toml, environment) = text.split_once("\n---\n").unwrap_or((text, ""));
    let environment: Vec<(String, String)> = environment
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let read = || Settings::parse(toml, "msgkit.toml", environment.clone());
    match read() {
        Ok(settings) => {
            keeps_its_rules(&settings);
            let again = read().map(|settings| format!("{settings:?}"));
            assert_eq!(again.ok(), Some(format!("{settings:?}")), "read again, it says something else");
        }
        Err(error) => drop(refusal::check(&error)),
    }
}

fn keeps_its_rules(settings: &Settings) {
    let transports: HashSet<&str> = settings.transports.iter().map(|at| at.name.as_str()).collect();
    assert_eq!(transports.len(), settings.transports.len());
    for (pattern, to) in &settings.routes {
        assert_eq!(Pattern::new(pattern.as_str()).as_ref().ok(), Some(pattern));
        assert!(transports.contains(to.as_str()), "a route to {to}");
    }
    for (pattern, to) in &settings.destinations {
        assert_eq!(Pattern::new(pattern.as_str()).as_ref().ok(), Some(pattern));
        assert_eq!(Topic::new(to.as_str()).as_ref().ok(), Some(to));
    }
    for transport in &settings.transports {
        assert!(!transport.url.scheme().is_empty());
        assert!(transport.dead_letters.as_ref().is_none_or(|at| transports.contains(at.as_str())));
        no_password(&transport.url, &format!("{settings:?}"));
    }
    let own = settings.handlers.values().map(|handler| &handler.overrides);
    for overrides in settings.policies.values().chain(own) {
        let mut policy = Policy::default();
        overrides.apply(&mut policy);
        match policy.check() {
            Ok(()) => keeps_its_delays(&policy),
            Err(error) => drop(refusal::check(&error)),
        }
    }
}

/// The long text of a password is in nothing that is printed, unless other words of the file have it as well.
fn no_password(url: &TransportUrl, printed: &str) {
    if let Some(password) = url.password().filter(|password| password.contains("hunter2")) {
        assert!(!printed.contains(&format!(":{password}@")), "a password is printed: {printed}");
    }
}

fn keeps_its_delays(policy: &Policy) {
    let Some(delayed) = &policy.delayed else { return };
    let steps = delayed.steps();
    assert!(steps.is_sorted(), "{delayed:?}: {steps:?}");
    assert!(steps.iter().all(|step| *step <= delayed.max), "{delayed:?}: {steps:?}");
    assert!(delayed.total() >= delayed.delay(1));
    assert!(policy.max_attempts() >= 1);
}

fn check_duration(line: &str) {
    match duration::parse(line) {
        Ok(read) => {
            let written = duration::format(read);
            assert_eq!(duration::parse(&written).ok(), Some(read), "{written}");
        }
        Err(error) => drop(refusal::check(&error)),
    }
}

fn check_nearest(line: &str) {
    if line.len() <= 100 {
        let known = ["service", "transports", "routes"];
        assert!(nearest(line, known).is_none_or(|near| known.contains(&near)));
    }
}
