//! The conformance suite on the memory transport, in both ways to keep delays and through pointers and a decorator.

use std::process::ExitCode;

use msgkit_testing::conformance::{self, MemorySubject, Subject, Wrapped, Wrapping};

fn main() -> ExitCode {
    let mut subjects: Vec<Box<dyn Subject>> =
        vec![Box::new(MemorySubject::native()), Box::new(MemorySubject::retry_topics())];
    for wrapping in Wrapping::ALL {
        subjects.push(Box::new(Wrapped(MemorySubject::native(), wrapping)));
        subjects.push(Box::new(Wrapped(MemorySubject::retry_topics(), wrapping)));
    }
    conformance::main(subjects)
}
