//! What users of a Kafka may not do, told to the broker in its own protocol: its tools come with jars that nothing else needs.

use std::io::{self, Read as _, Write as _};
use std::thread;
use std::time::{Duration, Instant};

use super::place::connect;

/// What a user of a [`Kafka`](super::Kafka) may not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Denied<'a> {
    /// Reading this topic; that it is there may be seen.
    Read(&'a str),
    /// Writing to this topic.
    Write(&'a str),
    /// Being a member of this group.
    Group(&'a str),
}

const DESCRIBE: i16 = 29;
const CREATE: i16 = 30;
const DELETE: i16 = 31;
/// How long the broker may take to act by a rule that the controller has.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tells the broker behind `address` that `user` may not do that, or that nothing is denied any more; returns when it acts by it.
pub(super) fn rule(address: &str, user: &str, denied: Denied<'_>, denies: bool) -> io::Result<()> {
    const TOPIC: u8 = 2;
    const GROUP: u8 = 3;
    const ALL: u8 = 2;
    const READ: u8 = 3;
    const WRITE: u8 = 4;
    const DENY: u8 = 2;
    const ALLOW: u8 = 3;
    let (resource, name, operation) = match denied {
        Denied::Read(name) => (TOPIC, name, READ),
        Denied::Write(name) => (TOPIC, name, WRITE),
        Denied::Group(name) => (GROUP, name, READ),
    };
    let rule = |operation: u8, permission: u8| {
        let mut rule = vec![resource];
        text(&mut rule, name);
        rule.push(LITERAL);
        text(&mut rule, &format!("User:{user}"));
        text(&mut rule, "*");
        rule.extend([operation, permission]);
        rule
    };
    // What has a rule is closed to whom no rule allows it.
    let (allowing, denying) = (rule(ALL, ALLOW), rule(operation, DENY));
    let both = [&2_i32.to_be_bytes(), &*allowing, &*denying].concat();
    // Behind the number of the request and the time that a client should wait comes the number of results, and the code of the first.
    let answer = call(address, if denies { CREATE } else { DELETE }, &both)?;
    if answer.get(12..14) != Some(&[0, 0]) {
        let said = String::from_utf8_lossy(&answer);
        return Err(io::Error::other(format!("the broker refuses the rule: {said}")));
    }
    let end = Instant::now() + PATIENCE;
    // Here the code comes first, and its text, which is null; then how many there are.
    while call(address, DESCRIBE, &denying)?.get(8..16).is_none_or(|told| (told[4..] == [0; 4]) == denies) {
        if Instant::now() >= end {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the broker does not act by the rule"));
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A rule for this very name.
const LITERAL: u8 = 3;

fn text(into: &mut Vec<u8>, text: &str) {
    let bytes = &text.as_bytes()[..text.len().min(i16::MAX as usize)];
    into.extend(u16::try_from(bytes.len()).unwrap_or_default().to_be_bytes());
    into.extend(bytes);
}

/// A request of version 1, and its answer.
fn call(address: &str, api: i16, body: &[u8]) -> io::Result<Vec<u8>> {
    const HEADER: i32 = 10;
    let mut request = (HEADER + i32::try_from(body.len()).unwrap_or(i32::MAX)).to_be_bytes().to_vec();
    request.extend(api.to_be_bytes());
    // Version 1, number 7, a client without a name.
    request.extend([0, 1, 0, 0, 0, 7, 0xff, 0xff]);
    request.extend(body);
    let mut stream = connect(address, Duration::from_secs(30))?;
    stream.write_all(&request)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap_or_default().min(1 << 20)];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}
