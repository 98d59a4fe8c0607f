//! Every mutant must be rejected by the conformance suite; the last line says how many were.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};
use msgkit_testing::mutants::{self, Judgement, Mutant};

fn main() -> ExitCode {
    // The cases and the mutants panic on purpose.
    std::panic::set_hook(Box::new(|_| {}));
    let arguments = Arguments::from_args();
    let killed: Arc<Mutex<Vec<String>>> = Arc::default();
    let mut trials = Vec::new();
    for mutant in mutants::all() {
        let mutant: Arc<dyn Mutant> = Arc::from(mutant);
        let killed = killed.clone();
        trials.push(Trial::test(mutant.name().to_owned(), move || match mutants::judge(&mutant) {
            Judgement::Killed { case, .. } => {
                let line = format!("{:<32} {:<80} {case}", mutant.name(), mutant.mistake());
                killed.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                Ok(())
            }
            _ => Err(Failed::from(format!("no case notices that it {}", mutant.mistake()))),
        }));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    let mut killed = std::mem::take(&mut *killed.lock().unwrap_or_else(PoisonError::into_inner));
    killed.sort_unstable();
    if !arguments.list {
        killed.iter().for_each(|line| println!("{line}"));
        println!("mutants: {} killed, {} survived", killed.len(), conclusion.num_failed);
    }
    conclusion.exit_code()
}
