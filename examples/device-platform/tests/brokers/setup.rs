//! What the tests of all configurations have in common: where a run takes place, and what it must come to.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Completion, Failed, Trial};
use msgkit_testing::brokers::{BrokerError, BrokerErrorKind};

use crate::platform::{self, Launch};
use crate::story::{self, Posts, Totals, comes_to};

/// What all runs of so many measurements must come to.
fn wanted(replayed: usize) -> Arc<Totals> {
    static WANTED: Mutex<BTreeMap<usize, Arc<Totals>>> = Mutex::new(BTreeMap::new());
    let mut known = WANTED.lock().unwrap_or_else(PoisonError::into_inner);
    known.entry(replayed).or_insert_with(|| Arc::new(story::in_memory(replayed))).clone()
}

/// A file of `config/`, and what is special about it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    /// Its name, without `.toml`.
    pub(crate) config: &'static str,
    /// The transport that all topics go to for which it names no other.
    pub(crate) backbone: &'static str,
    /// How many measurements are replayed.
    pub(crate) replayed: usize,
    /// Gives a test a name space of its own at the brokers.
    pub(crate) apart: fn(&str, Launch) -> Result<Apart, BrokerError>,
}

/// How the program finds the brokers, and what of them ends with the test.
pub(crate) struct Apart {
    pub(crate) launch: Launch,
    /// What stands before all names there, where the test needs it.
    pub(crate) prefix: String,
    held: Vec<Box<dyn Any>>,
}

impl Apart {
    pub(crate) fn new(launch: Launch, prefix: impl Into<String>) -> Self {
        Self { launch, prefix: prefix.into(), held: Vec::new() }
    }

    /// The same, and `held` is dropped when the test is over.
    pub(crate) fn holding(mut self, held: impl Any) -> Self {
        self.held.push(Box::new(held));
        self
    }
}

/// A place for one test: its name space at the brokers, its folder for data.
pub(crate) struct Place {
    pub(crate) apart: Apart,
    pub(crate) folder: tempfile::TempDir,
}

impl Setup {
    pub(crate) fn path(self) -> PathBuf {
        PathBuf::from(format!("{}/config/{}.toml", env!("CARGO_MANIFEST_DIR"), self.config))
    }

    pub(crate) fn place(self, test: &str) -> Result<Place, BrokerError> {
        let (path, folder) = (self.path(), tempfile::tempdir().unwrap());
        let arguments = ["--config", path.to_str().unwrap(), "--data", folder.path().to_str().unwrap()];
        Ok(Place { apart: (self.apart)(test, Launch::default().with(&arguments))?, folder })
    }

    /// How the program is started with the story's measurements, so fast.
    fn told(self, place: &Place, speed: &str) -> Launch {
        let replayed = self.replayed.to_string();
        place.apart.launch.clone().with(&["--speed", speed, "--readings", &replayed])
    }

    /// The tests of every configuration.
    pub(crate) fn tests(self) -> Vec<Trial> {
        vec![
            self.test("check_says_how_it_would_run_without_a_broker", Self::check),
            self.test("one_process_killed_comes_to_the_totals_of_memory", Self::one_process),
            self.test("each_component_killed_in_turn_comes_to_the_totals_of_memory", Self::each_component),
        ]
    }

    pub(crate) fn test(self, name: &str, body: fn(Self) -> Result<(), BrokerError>) -> Trial {
        Trial::ignorable_test(format!("{}::{name}", self.config), move || match body(self) {
            Ok(()) => Ok(Completion::Completed),
            Err(error) => {
                let required = std::env::var("MSGKIT_REQUIRE_BROKERS").is_ok_and(|value| value == "1");
                if error.kind() == BrokerErrorKind::Missing && !required {
                    return Ok(Completion::ignored_with(format!("not run: {error}")));
                }
                Err(Failed::from(error.to_string()))
            }
        })
    }

    fn check(self) -> Result<(), BrokerError> {
        let (content, printed, error) = platform::check(&self.path());
        assert!(content, "{error}");
        assert!(printed.contains(&format!("from    backbone ({})", self.backbone)), "{printed}");
        assert!(printed.ends_with("6 components, no warnings\n"), "{printed}");
        Ok(())
    }

    fn one_process(self) -> Result<(), BrokerError> {
        let place = self.place("one")?;
        let launch = self.told(&place, "2000");
        let store = story::store(place.folder.path());
        let mut posts = Posts::new();
        let first = launch.start();
        posts.some(20, &first);
        first.kill();
        let second = launch.start();
        posts.rest(&second);
        comes_to(&store, &wanted(self.replayed));
        Ok(())
    }

    fn each_component(self) -> Result<(), BrokerError> {
        let place = self.place("each")?;
        story::killed_in_turn(place.folder.path(), &self.told(&place, "600"), &wanted(self.replayed));
        Ok(())
    }
}
