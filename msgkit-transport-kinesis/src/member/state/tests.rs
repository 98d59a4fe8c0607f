use msgkit::Envelope;
use msgkit::envelope::{Clock, ContentType};

use super::*;
use crate::position::Position;

/// Settles nothing; the test does.
#[derive(Debug)]
struct Nobody;

impl Settle for Nobody {
    fn done(&self, _: &mut Vec<Token>) {}
    fn returned(&self, _: Token, _: Incoming) {}
}

fn sequence(n: usize) -> Sequence {
    Sequence::new(&n.to_string())
}

#[test]
fn what_is_settled_behind_a_message_that_is_not_has_a_bound() {
    const PREFETCH: usize = 300;
    const ALL: usize = MOST_AHEAD + 2 * PREFETCH;
    let settler: Arc<dyn Settle> = Arc::new(Nobody);
    let mut state = State::new(PREFETCH, Vec::new(), false);
    state.alive_until = Instant::now() + Duration::from_secs(3600);
    let generation = state.hold(Lease::new("s", "0", Vec::new(), Position::Oldest), 1);
    let held = state.held.get_mut(&generation).unwrap();
    held.stored_start(ALL as u64);
    let now = Clock::system().now();
    for n in 1..=ALL {
        let topic = "a.b".parse().unwrap();
        let envelope = Envelope::new("test", "test.text", topic, ContentType::Json, "1".into(), now);
        held.push(sequence(n), Some(Ready { message: Incoming::Envelope(envelope), size: 1 }));
    }
    // The first is never settled, the others at once.
    let mut settled = 0;
    loop {
        let mut came = VecDeque::new();
        if state.take(&settler, PREFETCH, &mut came).unwrap() != Found::Some {
            break;
        }
        let others: Vec<u64> =
            state.held[&generation].in_hand.iter().copied().filter(|id| *id != 1).collect();
        for id in others {
            assert!(state.done(Token { id, epoch: generation }));
            settled += 1;
        }
    }
    assert!((MOST_AHEAD..=MOST_AHEAD + PREFETCH).contains(&settled), "{settled}");
    assert_eq!(state.held[&generation].lease.at, Position::Oldest, "the checkpoint is before it");
    assert!(state.done(Token { id: 1, epoch: generation }));
    assert_eq!(state.held[&generation].lease.at, Position::After(sequence(settled + 1)));
    let mut came = VecDeque::new();
    assert_eq!(state.take(&settler, PREFETCH, &mut came).unwrap(), Found::Some, "now the rest goes on");
}

fn ready(topic: &str) -> Ready {
    let (topic, now) = (topic.parse().unwrap(), Clock::system().now());
    let envelope = Envelope::new("test", "test.text", topic, ContentType::Json, "1".into(), now);
    Ready { message: Incoming::Envelope(envelope), size: 1 }
}

#[test]
fn only_a_look_that_began_later_says_that_a_message_is_not_the_groups() {
    let patterns = |all: &[&str]| all.iter().map(|pattern| pattern.parse().unwrap()).collect::<Vec<_>>();
    let settler: Arc<dyn Settle> = Arc::new(Nobody);
    let mut state = State::new(10, patterns(&["a.b"]), false);
    state.alive_until = Instant::now() + Duration::from_secs(3600);
    let generation = state.hold(Lease::new("s", "0", Vec::new(), Position::Oldest), 1);
    state.held.get_mut(&generation).unwrap().stored_start(10);
    state.take_in(generation, sequence(1), ready("a.c"), true);
    let look = state.begin_look();
    for (n, topic) in [(2, "a.c"), (3, "a.b"), (4, "a.d")] {
        state.take_in(generation, sequence(n), ready(topic), true);
    }
    state.looked(look, patterns(&["a.b"]));
    let held = |state: &State| {
        let held = &state.held[&generation];
        (held.lease.at.clone(), held.bytes, held.buffered())
    };
    // The first came before the look, the others may have been published after a declaration that it has not seen.
    assert_eq!(held(&state), (Position::After(sequence(1)), 3, 1));
    state.held.get_mut(&generation).unwrap().leaving = Some(Instant::now());
    assert!(!state.held[&generation].goes(), "not before it is decided");
    state.held.get_mut(&generation).unwrap().leaving = None;
    let look = state.begin_look();
    state.looked(look, patterns(&["a.b", "a.c"]));
    assert!(!state.is_in_doubt());
    let mut came = VecDeque::new();
    assert_eq!(state.take(&settler, 10, &mut came).unwrap(), Found::Some);
    let topics: Vec<String> = came.iter().map(|one| one.message().topic().to_string()).collect();
    assert_eq!(topics, ["a.c", "a.b"], "each at its place");
    for id in [2, 3] {
        assert!(state.done(Token { id, epoch: generation }));
    }
    assert_eq!(held(&state), (Position::After(sequence(4)), 0, 0));
    // Nobody else can have declared anything where the table is one's own.
    let mut state = State::new(10, patterns(&["a.b"]), true);
    let generation = state.hold(Lease::new("s", "0", Vec::new(), Position::Oldest), 1);
    state.take_in(generation, sequence(1), ready("a.c"), true);
    assert_eq!(state.held[&generation].lease.at, Position::After(sequence(1)));
}
