//! A few hundred seeds of the simulation, and every seed that has found something.

use msgkit_testing::simulation;

/// Seeds that found something once. What they found depends on the plan of faults, which changes with the simulation: the
/// bugs themselves have their own tests.
const FOUND: [u64; 6] = [5, 6, 10, 12, 24, 1228];

fn run(seeds: impl Iterator<Item = u64>) {
    std::panic::set_hook(Box::new(|_| {}));
    for seed in seeds {
        let outcome = simulation::run(seed);
        assert!(outcome.problems.is_empty(), "again: make simulate SEED={seed}\n{outcome:#?}");
        assert!(outcome.count() >= 5, "too few faults: {outcome:#?}");
    }
}

#[test]
fn seeds_that_found_something() {
    run(FOUND.into_iter());
}

#[test]
fn three_hundred_seeds() {
    run(0..300);
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in [3, 77] {
        assert_eq!(simulation::run(seed), simulation::run(seed));
    }
}
