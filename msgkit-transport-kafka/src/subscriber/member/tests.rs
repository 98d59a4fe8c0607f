use bytes::Bytes;
use msgkit::envelope::{Clock, ContentType, Timestamp};
use msgkit::transport::TransportUrl;
use msgkit::{Envelope, transport::Incoming};

use super::*;
use crate::Kafka;
use crate::starts::Starts;
use crate::subscriber::partition::Counting;

fn member() -> Arc<Member> {
    let url = TransportUrl::parse("kafka://127.0.0.1:1").unwrap();
    let kafka = Kafka::with(&url, crate::KafkaConfig::default(), Clock::system()).unwrap();
    Arc::new(Member::new(kafka.cluster(), None, 100))
}

fn begun(member: &Member, offset: u64) -> u64 {
    member.assigned("t", 0, Begin { offset, again: false }, Starts::default(), false)
}

/// Messages of the partition `epoch` come; which epoch it has then.
fn come(member: &Member, epoch: u64, offsets: std::ops::Range<u64>) -> u64 {
    let arrived = offsets.map(|offset| {
        let text = Bytes::from_static(b"x");
        let topic = "a.b".parse().unwrap();
        let envelope = Envelope::new("tests", "t", topic, ContentType::Json, text, Timestamp::now());
        Arrived { epoch, offset, what: What::Ours(Incoming::Envelope(envelope)) }
    });
    member.arrived(arrived).get(&epoch).copied().unwrap_or(epoch)
}

/// Commits as the thread does, with the broker's word.
fn commit(member: &Member, counting: Counting) -> Vec<u64> {
    let commits = member.commits(None, counting);
    let offsets = commits.iter().map(|commit| commit.offset).collect();
    member.told(commits);
    offsets
}

fn take(member: &Member) -> Vec<Token> {
    let mut handed = Vec::new();
    member.take(100, &mut handed).unwrap();
    handed.into_iter().map(|one| one.token).collect()
}

fn settle(member: &Member, tokens: &[Token]) {
    member.done(&mut tokens.to_vec());
}

/// A broker was killed, and had written less than it had given out: records 12 to 19 are gone, and what follows stands
/// there now. 5 to 11 are in hand.
#[test]
fn what_is_unsettled_when_a_log_is_cut_off_is_not_passed() {
    let member = member();
    let epoch = begun(&member, 0);
    come(&member, epoch, 0..20);
    take(&member);
    commit(&member, Counting::Ahead);
    let old = take(&member);
    assert_eq!(old.len(), 20);
    settle(&member, &old[..5]);
    let next = come(&member, epoch, 12..15);
    assert_ne!(next, epoch);
    take(&member);
    assert_eq!(commit(&member, Counting::Ahead), [5], "the group goes on there if this member dies now");
    let new = take(&member);
    assert_eq!(new.len(), 3);
    settle(&member, &new);
    // Nothing to tell, and nobody asks for it again and again.
    assert!(!member.wants_commit().1);
    settle(&member, &old[6..]);
    assert_eq!(commit(&member, Counting::None), [5], "5 is still in hand");
    settle(&member, &old[5..6]);
    assert!(member.wants_commit().1);
    assert_eq!(commit(&member, Counting::None), [15]);
    assert!(!member.wants_commit().1);
}

/// The broker's word on a commit comes after the log was found to be another one.
#[test]
fn a_commit_of_the_old_log_that_is_answered_late_holds_nothing_back() {
    let member = member();
    let epoch = begun(&member, 0);
    come(&member, epoch, 0..20);
    take(&member);
    let commits = member.commits(None, Counting::Ahead);
    // Then one that counts nothing, as for a flush.
    member.told(commits);
    let on_its_way = member.commits(None, Counting::InHand);
    assert_eq!(on_its_way.len(), 1);
    come(&member, epoch, 3..4);
    member.told(on_its_way);
    assert_eq!(take(&member).len(), 20, "the old ones are handed out");
}

/// What comes of it then is dropped, so that nothing seems to come.
#[test]
fn a_partition_that_is_given_away_is_not_waited_for() {
    let member = member();
    let epoch = begun(&member, 0);
    come(&member, epoch, 0..3);
    assert_eq!(member.next(epoch), Some(3));
    member.begin_to_leave(&[epoch]);
    assert_eq!(member.next(epoch), None);
}

/// Without a group nothing is told to the brokers, so nothing of it can be missing there.
#[test]
fn who_commits_nothing_leaves_nothing_behind() {
    for free in [true, false] {
        let member = member();
        let begin = Begin { offset: 0, again: false };
        let epoch = member.assigned("t", 0, begin, Starts::default(), free);
        come(&member, epoch, 0..1);
        take(&member);
        member.gone();
        settle(&member, &[Token { id: 0, epoch }]);
        assert_eq!(member.is_behind(), !free);
    }
}
