use super::*;

/// One member has handled the messages below 100 in order, as they should be.
fn evidence() -> Evidence {
    let entries = (0..100).filter(|n| Fate::of(*n) != Fate::Condemned);
    Evidence {
        total: 100,
        again: 0,
        journals: vec![entries.map(|n| Entry { at: u128::from(n), n }).collect()],
        dead: vec![(73, "condemned".to_owned())],
        late: BTreeSet::new(),
        left: 0,
        unwritten: BTreeSet::new(),
        order: KeyOrder::Member,
        alone: true,
        faults: Faults::default(),
    }
}

fn problems(change: impl FnOnce(&mut Evidence)) -> Vec<String> {
    let mut evidence = evidence();
    change(&mut evidence);
    Ledger::of(&evidence).problems()
}

#[test]
fn a_clean_run_has_no_problems() {
    let ledger = Ledger::of(&evidence());
    assert_eq!(ledger.problems(), Vec::<String>::new());
    assert_eq!((ledger.confirmed, ledger.handled, ledger.dead), (100, 99, 1));
}

#[test]
fn what_never_came_is_lost() {
    assert_eq!(problems(|evidence| evidence.journals[0].retain(|entry| entry.n != 5)), ["1 lost: 5"]);
    assert_eq!(problems(|evidence| evidence.dead.clear()), ["1 lost: 73"]);
}

#[test]
fn what_the_broker_had_not_written_is_listed_apart() {
    let mut evidence = evidence();
    evidence.journals[0].retain(|entry| entry.n != 5);
    evidence.unwritten = BTreeSet::from([5, 6]);
    let ledger = Ledger::of(&evidence);
    assert_eq!(ledger.problems(), Vec::<String>::new());
    assert_eq!(ledger.unwritten, BTreeSet::from([5]));
}

#[test]
fn what_came_late_or_is_left_is_stuck() {
    assert_eq!(problems(|evidence| evidence.late = BTreeSet::from([5])), ["1 stuck"]);
    assert_eq!(problems(|evidence| evidence.left = 2), ["2 stuck"]);
}

#[test]
fn a_dead_letter_that_should_have_been_handled_is_told() {
    let told = problems(|evidence| {
        evidence.journals[0].retain(|entry| entry.n != 5);
        evidence.dead.push((5, "crash".to_owned()));
    });
    assert_eq!(told, ["1 condemned without cause, as 5: crash"]);
}

#[test]
fn duplicates_are_bounded_by_what_was_in_flight() {
    let twice = |evidence: &mut Evidence| {
        let again: Vec<Entry> = evidence.journals[0][..10].to_vec();
        evidence.journals.push(again);
        evidence.dead.push((73, "condemned".to_owned()));
    };
    assert_eq!(problems(twice), ["11 duplicates, and what was in flight explains 0"]);
    let explained = problems(|evidence| {
        twice(evidence);
        evidence.faults.connections("cut", 1);
    });
    assert_eq!(explained, Vec::<String>::new());
}

#[test]
fn a_message_behind_a_younger_one_of_its_key_is_out_of_order() {
    // 3 and 19 have one key, 37 and 53 another; 37 is delayed.
    let swap = |evidence: &mut Evidence, one: u64, other: u64| {
        let entries = &mut evidence.journals[0];
        let place = |entries: &[Entry], n| entries.iter().position(|entry| entry.n == n).unwrap();
        let (one, other) = (place(entries, one), place(entries, other));
        entries.swap(one, other);
    };
    assert_eq!(problems(|evidence| swap(evidence, 3, 19)), ["1 out of order"]);
    assert_eq!(problems(|evidence| swap(evidence, 37, 53)), Vec::<String>::new());
    assert_eq!(
        problems(|evidence| {
            swap(evidence, 3, 19);
            evidence.alone = false;
        }),
        Vec::<String>::new()
    );
}

#[test]
fn what_comes_again_is_not_out_of_order() {
    let ledger = Ledger::of(&{
        let mut evidence = evidence();
        let again: Vec<Entry> = evidence.journals[0].clone();
        evidence.journals[0].extend(again);
        evidence
    });
    assert_eq!(ledger.disorder, 0);
}

#[test]
fn order_across_the_group_is_judged_across_journals() {
    let split = |evidence: &mut Evidence| {
        evidence.order = KeyOrder::Group;
        evidence.alone = false;
        let later = evidence.journals[0].split_off(50);
        evidence.journals.push(later);
    };
    assert_eq!(problems(split), Vec::<String>::new());
    let told = problems(|evidence| {
        split(evidence);
        let place = evidence.journals[0].iter().position(|entry| entry.n == 3).unwrap();
        evidence.journals[0][place].at = 1000;
    });
    assert_eq!(told, ["1 out of order"]);
}
