//! `traceparent` and `tracestate`: lines `traceparent:value`, and every other line is a `tracestate`.

use std::collections::HashSet;

use msgkit::envelope::trace::{TraceContext, TraceParent, TraceState};

use crate::refusal;

/// Panics where a promise does not hold for these bytes.
pub fn check(bytes: &[u8]) {
    // As bytes, which need not be text.
    for line in bytes.split(|&byte| byte == b'\n') {
        let value = line.strip_prefix(b"traceparent:").unwrap_or(line);
        let text = std::str::from_utf8(value).ok();
        assert_eq!(TraceParent::parse(value).is_ok(), text.is_some_and(is_parent), "{text:?}");
        if let Ok(parent) = TraceParent::parse(value) {
            parent_survives(parent);
        }
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (mut parents, mut states) = (Vec::new(), Vec::new());
    for line in text.split('\n') {
        match line.strip_prefix("traceparent:") {
            Some(value) => parents.push(value),
            None => states.push(line.strip_prefix("tracestate:").unwrap_or(line)),
        }
    }
    let state = TraceState::combine(states.iter().copied());
    match &state {
        Ok(Some(state)) => state_survives(state),
        Ok(None) => {
            assert!(states.iter().all(|value| value.trim_matches([' ', '\t', ',']).is_empty()));
        }
        Err(error) => drop(refusal::check(error)),
    }
    let context = TraceContext::from_headers(parents.iter().copied(), states.iter().copied());
    let one = match parents[..] {
        [value] => TraceParent::parse(value.trim_matches([' ', '\t'])).ok(),
        _ => None,
    };
    assert_eq!(context.as_ref().map(|context| context.parent), one);
    if let Some(context) = context {
        assert_eq!(context.state, state.unwrap_or(None));
        let child = context.child(7);
        assert_eq!(child.parent.trace_id(), context.parent.trace_id());
        assert_eq!((child.parent.sampled(), child.parent.parent_id().get()), (context.parent.sampled(), 7));
        assert!(child.state.is_none_or(|state| state.as_str().len() <= TraceState::PROPAGATED));
    }
}

/// The grammar, section 3.2.2.
fn is_parent(text: &str) -> bool {
    let fields: Vec<&str> = text.splitn(5, '-').collect();
    let hex = |at: usize, length: usize| {
        fields.get(at).is_some_and(|field| {
            field.len() == length && field.bytes().all(|byte| b"0123456789abcdef".contains(&byte))
        })
    };
    let zero = |at: usize| fields[at].bytes().all(|byte| byte == b'0');
    hex(0, 2)
        && hex(1, 32)
        && hex(2, 16)
        && hex(3, 2)
        && !zero(1)
        && !zero(2)
        && match fields[0] {
            "ff" => false,
            "00" => fields.len() == 4,
            _ => true,
        }
}

fn parent_survives(parent: TraceParent) {
    let written = parent.to_string();
    assert_eq!(written.len(), TraceParent::LENGTH);
    assert_eq!(written.parse(), Ok(parent));
    assert!(parent.trace_id().get() != 0 && parent.parent_id().get() != 0);
}

fn state_survives(state: &TraceState) {
    let written = state.as_str();
    assert_eq!(written.parse().as_ref(), Ok(state));
    let members: Vec<(&str, &str)> = state.members().collect();
    assert!((1..=TraceState::MAX_MEMBERS).contains(&members.len()));
    let keys: HashSet<&str> = members.iter().map(|(key, _)| *key).collect();
    assert_eq!(keys.len(), members.len(), "a key is there twice");
    for (key, value) in &members {
        assert!((1..=256).contains(&key.len()) && (1..=256).contains(&value.len()));
        assert_eq!(state.get(key), Some(*value));
    }
    for limit in [0, 1, 100, 129, TraceState::PROPAGATED, written.len()] {
        let short = state.truncated(limit);
        assert!(short.as_ref().is_none_or(|short| short.as_str().len() <= limit), "{limit}");
        if let Some(short) = short {
            assert_eq!(short.truncated(limit).as_ref(), Some(&short));
            assert_eq!(short.as_str().parse().as_ref(), Ok(&short));
        }
    }
}
