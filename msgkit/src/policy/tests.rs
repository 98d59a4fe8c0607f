use std::time::Duration;

use super::*;

const S: Duration = Duration::from_secs(1);

fn seconds(of: &[Duration]) -> Vec<f64> {
    of.iter().map(Duration::as_secs_f64).collect()
}

fn delayed(initial: u64, factor: f64, max: u64, rounds: u32) -> Delayed {
    let (initial, max) = (Duration::from_secs(initial), Duration::from_secs(max));
    Delayed { initial, factor, max, rounds, jitter: 0.0 }
}

#[test]
fn delays_grow_up_to_the_longest_and_each_is_one_step() {
    let growing = delayed(1, 2.0, 5, 6);
    let delays: Vec<Duration> = (1..=6).map(|round| growing.delay(round)).collect();
    assert_eq!(seconds(&delays), [1.0, 2.0, 4.0, 5.0, 5.0, 5.0]);
    assert_eq!(seconds(&growing.steps()), [1.0, 2.0, 4.0, 5.0]);
    assert_eq!(growing.total(), S * 22);
    // The same delay each time is one step, also where it is below the longest.
    assert_eq!(seconds(&delayed(2, 1.0, 5, 3).steps()), [2.0]);
    assert_eq!(delayed(2, 1.0, 5, 3).total(), S * 6);
    assert!(delayed(2, 1.0, 5, 0).steps().is_empty());
}

#[test]
fn delays_beyond_all_numbers_are_the_longest() {
    assert_eq!(delayed(1, 1e300, 60, 9).delay(u32::MAX), S * 60);
    assert_eq!(delayed(1, 0.5, 60, 9).delay(9), S, "a factor below 1 makes nothing shorter");
    assert_eq!(delayed(1, 2.0, u64::MAX, 1000).total(), Duration::MAX);
}

#[test]
fn steps_of_a_thousand_rounds_end_with_the_longest() {
    assert_eq!(delayed(1, 2.0, 60, 1000).steps().len(), 7);
}

#[test]
fn jitter_only_adds_and_at_most_its_share() {
    let mut delay = delayed(10, 1.0, 10, 1);
    assert_eq!(delay.jitter_of(S * 10), Duration::ZERO);
    delay.jitter = 0.5;
    let added: Vec<Duration> = (0..1000).map(|_| delay.jitter_of(S * 10)).collect();
    assert!(added.iter().all(|added| *added <= S * 5), "{:?}", added.iter().max());
    assert!(added.iter().any(|added| *added > S * 4) && added.iter().any(|added| *added < S));
    delay.jitter = 7.0;
    assert!((0..1000).all(|_| delay.jitter_of(S) <= S), "more than the delay itself is never added");
}

#[test]
fn attempts_are_those_in_place_times_those_that_wait() {
    let mut policy = Policy { immediate: 2, delayed: Some(delayed(1, 2.0, 60, 5)), ..Policy::default() };
    assert_eq!(policy.max_attempts(), 18);
    policy.delayed = None;
    assert_eq!(policy.max_attempts(), 3);
    policy.immediate = u32::MAX;
    assert_eq!(policy.max_attempts(), u32::MAX);
}

/// What the default policy, changed, is refused for; empty where it is not.
fn refused(change: impl FnOnce(&mut Policy, &mut Delayed)) -> String {
    let (mut policy, mut delayed) = (Policy::default(), Delayed::default());
    change(&mut policy, &mut delayed);
    policy.delayed = Some(delayed);
    policy.check().err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn a_policy_that_cannot_be_is_refused_by_its_key() {
    type Change = fn(&mut Policy, &mut Delayed);
    let wrong: [(&str, Change); 13] = [
        ("`concurrency = 0`", |policy, _| policy.concurrency = 0),
        ("`in_flight = 3` is less than `concurrency = 4`", |policy, _| {
            (policy.in_flight, policy.concurrency) = (3, 4);
        }),
        ("`timeout` is zero", |policy, _| policy.timeout = Duration::ZERO),
        ("`copy_deadline` is zero", |policy, _| policy.copy_deadline = Duration::ZERO),
        ("`max_starts = 0`", |policy, _| policy.max_starts = 0),
        ("`delayed.factor = 0.99`", |_, delayed| delayed.factor = 0.99),
        ("`delayed.factor = inf`", |_, delayed| delayed.factor = f64::INFINITY),
        ("`delayed.initial`", |_, delayed| delayed.initial = Duration::ZERO),
        ("`delayed.initial`", |_, delayed| delayed.max = delayed.initial - Duration::from_nanos(1)),
        ("`delayed.jitter = -0.1`", |_, delayed| delayed.jitter = -0.1),
        ("`delayed.jitter = 1.1`", |_, delayed| delayed.jitter = 1.1),
        ("`delayed.rounds`", |_, delayed| delayed.rounds = 0),
        ("`delayed.rounds`", |_, delayed| delayed.rounds = 1001),
    ];
    for (key, change) in wrong {
        assert!(refused(change).contains(key), "{key}: {}", refused(change));
    }
    let right: [Change; 5] = [
        |policy, _| (policy.in_flight, policy.concurrency) = (4, 4),
        |_, delayed| delayed.factor = 1.0,
        |_, delayed| delayed.max = delayed.initial,
        |_, delayed| (delayed.jitter, delayed.rounds) = (1.0, 1000),
        |_, delayed| (delayed.jitter, delayed.rounds) = (0.0, 1),
    ];
    for change in right {
        assert_eq!(refused(change), "");
    }
}

fn breaker() -> Breaker {
    Breaker::new(BreakerPolicy { failures: 3, wait: S, max_wait: S * 3, patience: S * 60 })
}

/// How long the next attempt has to wait.
async fn admitted(breaker: &Breaker) -> Duration {
    let began = tokio::time::Instant::now();
    breaker.admit().await;
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_breaker_opens_after_failures_in_a_row_and_waits_longer_while_its_probes_fail() {
    let breaker = breaker();
    assert!(!breaker.failed() && !breaker.failed());
    breaker.succeeded();
    assert!(!breaker.failed() && !breaker.failed(), "a success between them begins anew");
    assert!(breaker.is_closed() && breaker.state() == BreakerState::Closed);
    assert_eq!(admitted(&breaker).await, Duration::ZERO);
    assert!(breaker.failed() && !breaker.is_closed());
    let until = tokio::time::Instant::now() + S;
    assert_eq!(breaker.state(), BreakerState::Open(until));
    assert!(breaker.failed(), "what was under way fails too");
    assert_eq!(breaker.state(), BreakerState::Open(until), "and does not make it wait longer");
    for wait in [S, S * 2, S * 3, S * 3] {
        assert_eq!(admitted(&breaker).await.as_secs(), wait.as_secs());
        assert_eq!(breaker.state(), BreakerState::Probing);
        assert!(breaker.failed());
    }
    admitted(&breaker).await;
    breaker.succeeded();
    assert!(breaker.is_closed() && breaker.state() == BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn of_many_that_wait_one_goes_first_and_the_next_where_it_says_nothing() {
    let breaker = breaker();
    for _ in 0..3 {
        breaker.failed();
    }
    admitted(&breaker).await;
    let second = tokio::time::timeout(S * 10, breaker.admit()).await;
    assert!(second.is_err(), "the others wait for the outcome of the first");
    breaker.abandoned();
    assert!(admitted(&breaker).await < S, "it said nothing, so the next one goes");
    breaker.succeeded();
    assert_eq!(admitted(&breaker).await, Duration::ZERO);
}
