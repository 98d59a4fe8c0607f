//! Random input, near enough to legal input to reach every branch, against a plain reading of the grammar.

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any};
use proptest::sample::{Index, select};
use proptest::{prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::super::{TraceContext, TraceParent, TraceState};

const OWS: &str = "[ \t]{0,2}";

/// A `traceparent` with a few characters replaced, put in or taken out.
fn traceparent() -> impl Strategy<Value = String> {
    let legal = "(00|00|01|cc|fe|ff)-([0-9a-f]{32}|0{31}[01])-([0-9a-f]{16}|0{15}[01])-[0-9a-f]{2}(-[a-z\u{e9}]{0,2})?";
    let edit = (0..3_u8, any::<Index>(), select(vec!['0', 'f', 'g', 'A', '-', '.', ' ', '\u{e9}']));
    (legal, vec(edit, 0..3)).prop_map(|(legal, edits)| {
        let mut text: Vec<char> = legal.chars().collect();
        for (kind, at, character) in edits {
            let at = at.index(text.len());
            match kind {
                0 => text[at] = character,
                1 => text.insert(at, character),
                _ => drop(text.remove(at)),
            }
        }
        text.into_iter().collect()
    })
}

/// The grammar of `traceparent`, and what it is written as.
fn read_traceparent(text: &str) -> Option<String> {
    let mut fields = text.split('-');
    let mut hex = |digits: usize| {
        let field = fields.next()?;
        let digit = |character| "0123456789abcdef".contains(character);
        (field.len() == digits && field.chars().all(digit)).then_some(field)
    };
    let (version, trace_id, parent_id, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    let zero = |id: &str| id.chars().all(|digit| digit == '0');
    if version == "ff" || zero(trace_id) || zero(parent_id) || (version == "00" && text.len() != 55) {
        return None;
    }
    Some(format!("00-{trace_id}-{parent_id}-{:02x}", u8::from_str_radix(flags, 16).unwrap() % 4))
}

/// The values of `tracestate` headers: mostly legal members, sometimes repeated, empty or faulty ones.
fn tracestate() -> impl Strategy<Value = Vec<String>> {
    let member = prop_oneof![
        300 => "[a-z0-9][a-z0-9_*/@-]{0,2}=[ -+\\--<>-~]{0,3}[!-+\\--<>-~]",
        30 => "[ab]=[!-+]{1,150}",
        30 => Just(String::new()),
        1 => "[a@A=é \t]{0,4}",
        1 => "[a-z]{255,257}=[a-z ]{255,257}",
    ];
    vec(vec((OWS, member, OWS), 0..14), 0..4).prop_map(|values| {
        let text = |(before, member, after): &(String, String, String)| format!("{before}{member}{after}");
        values.iter().map(|members| members.iter().map(text).collect::<Vec<_>>().join(",")).collect()
    })
}

/// The grammar of `tracestate`, and what it is written as; `None` for a fault.
fn read_tracestate(values: &[String]) -> Option<String> {
    let values = values.join(",");
    let members: Vec<&str> =
        values.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|m| !m.is_empty()).collect();
    let mut kept: Vec<(&str, &str)> = Vec::new();
    for member in &members {
        let &[key, value] = &member.split('=').collect::<Vec<_>>()[..] else { return None };
        let first = key.trim_start_matches(|c| matches!(c, 'a'..='z' | '0'..='9')).len() < key.len();
        let key_legal = key.chars().all(|c| "abcdefghijklmnopqrstuvwxyz0123456789_-*/@".contains(c));
        let value_legal = value.chars().all(|c| (' '..='~').contains(&c));
        let lengths_legal = (1..257).contains(&key.len()) && (1..257).contains(&value.len());
        if !(first && key_legal && value_legal && lengths_legal) {
            return None;
        }
        if kept.iter().all(|(other, _)| *other != key) {
            kept.push((key, value));
        }
    }
    let kept: Vec<_> = kept.iter().map(|(key, value)| format!("{key}={value}")).collect();
    (members.len() <= 32).then(|| kept.join(","))
}

proptest! {
    #[test]
    fn traceparent_follows_the_grammar(text in traceparent()) {
        let read = TraceParent::parse(&text).ok().map(|parent| parent.to_string());
        prop_assert_eq!(read, read_traceparent(&text));
    }

    #[test]
    fn tracestate_follows_the_grammar(values in tracestate()) {
        let read = TraceState::combine(values.iter().map(String::as_str)).ok();
        let read = read.map(|state| state.map_or_else(String::new, |state| state.to_string()));
        prop_assert_eq!(read, read_tracestate(&values));
    }

    #[test]
    fn every_traceparent_survives_the_wire(trace_id: u128, span_id: u64, sampled: bool, byte: u8) {
        let parent = TraceParent::root(trace_id, span_id).with_sampled(sampled);
        let mut buffer = [byte; TraceParent::LENGTH];
        prop_assert_eq!(TraceParent::parse(parent.write_to(&mut buffer)), Ok(parent));
        prop_assert_eq!(TraceParent::parse(buffer), Ok(parent));
    }

    #[test]
    fn truncation_is_minimal(values in tracestate(), limit in 0..900_usize) {
        if let Ok(Some(state)) = TraceState::combine(values.iter().map(String::as_str)) {
            let mut members: Vec<&str> = state.as_str().split(',').collect();
            while members.join(",").len() > limit {
                let oversized = members.iter().rposition(|member| member.len() > 128);
                members.remove(oversized.unwrap_or(members.len() - 1));
            }
            let truncated = state.truncated(limit);
            prop_assert_eq!(truncated.as_ref().map_or("", TraceState::as_str), members.join(","));
            prop_assert!(truncated.is_none_or(|state| state.to_string().parse() == Ok(state)));
        }
    }

    #[test]
    fn no_input_panics(
        bytes: Vec<u8>,
        parents in vec(any::<String>(), 0..3),
        states in vec(any::<String>(), 0..3),
        limit: usize,
    ) {
        let _ = TraceParent::parse(&bytes);
        for text in parents.iter().chain(&states) {
            let _ = text.parse::<TraceParent>();
            let _ = text.parse::<TraceState>().map(|state| state.truncated(limit));
        }
        let context = TraceContext::from_headers(
            parents.iter().map(String::as_str),
            states.iter().map(String::as_str),
        );
        let _ = context.map(|context| context.child(0));
    }
}
