//! Every promise over the corpus and over a few thousand mutations of it: the same ones in every run.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::{fs, io};

use fastrand::Rng;
use msgkit_fuzz::{TARGETS, Target};

/// Mutations of each target's corpus.
const ROUNDS: u64 = 3000;

/// The longest input that a mutation grows to.
const LONGEST: usize = 16 * 1024;

/// The seeds of a target, by name.
fn corpus(target: &Target) -> io::Result<Vec<Vec<u8>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    files.sort();
    files.iter().map(fs::read).collect()
}

fn check(target: &Target, input: &[u8], origin: &str) {
    let result = catch_unwind(AssertUnwindSafe(|| (target.check)(input)));
    assert!(
        result.is_ok(),
        "{}, {origin}: a promise does not hold for\n{}",
        target.name,
        input.escape_ascii()
    );
}

/// One of the inputs, changed in one to eight places.
fn mutation(rng: &mut Rng, inputs: &[Vec<u8>]) -> Vec<u8> {
    let mut input = rng.choice(inputs).cloned().unwrap_or_default();
    for _ in 0..rng.usize(1..=8) {
        let (at, to) = (rng.usize(..=input.len()), rng.usize(..=input.len()));
        let (at, to) = (at.min(to), at.max(to));
        match rng.u8(..7) {
            0 => drop(input.drain(at..to)),
            1 => input.insert(at, rng.u8(..)),
            2 => {
                let odd = [
                    &b"\n"[..],
                    b"\0",
                    b"\"",
                    b"\\",
                    b"=",
                    b"-1",
                    b"99999999999999999999",
                    b"\xf0\x9f\xa6\x80",
                ];
                input.splice(at..at, rng.choice(odd).unwrap_or_default().iter().copied());
            }
            3 if at < input.len() => input[at] ^= 1 << rng.u8(..8),
            4 => {
                let copy = input[at..to].to_vec();
                input.splice(to..to, copy);
            }
            5 => {
                let other = rng.choice(inputs).cloned().unwrap_or_default();
                let (from, end) = (rng.usize(..=other.len()), rng.usize(..=other.len()));
                input.splice(at..to, other[from.min(end)..from.max(end)].iter().copied());
            }
            _ => input.truncate(to),
        }
        input.truncate(LONGEST);
    }
    input
}

#[test]
fn every_promise_holds_over_the_corpus() {
    for target in &TARGETS {
        let inputs = corpus(target).unwrap();
        assert!(!inputs.is_empty(), "{} has no corpus", target.name);
        for (at, input) in inputs.iter().enumerate() {
            check(target, input, &format!("file {at} by name"));
        }
    }
}

#[test]
fn every_promise_holds_over_mutations_of_the_corpus() {
    std::thread::scope(|scope| {
        for target in &TARGETS {
            scope.spawn(move || {
                let inputs = corpus(target).unwrap();
                for seed in 0..ROUNDS {
                    check(target, &mutation(&mut Rng::with_seed(seed), &inputs), &format!("seed {seed}"));
                }
            });
        }
    });
}
