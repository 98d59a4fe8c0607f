//! The 41 cases of `test/test.py` in github.com/w3c/trace-context (commit acab820, `SPEC_LEVEL=2`, `STRICT_LEVEL=2`),
//! under their own names. A case sends headers to a service and looks at the headers with which the service calls back.

use std::sync::atomic::{AtomicU64, Ordering};

use super::super::TraceContext;

const TRACE_ID: &str = "12345678901234567890123456789012";
const PARENT_ID: &str = "1234567890123456";
const TRACEPARENT: &str = "00-12345678901234567890123456789012-1234567890123456-00";

type Headers<'a> = &'a [(&'a str, &'a str)];

/// The service under test: reads the context, or starts a trace, and calls out `calls` times.
fn service(headers: Headers<'_>, calls: usize) -> Vec<Vec<(&'static str, String)>> {
    static SPANS: AtomicU64 = AtomicU64::new(1);
    let fresh = || SPANS.fetch_add(1, Ordering::Relaxed);
    let values = |name| {
        headers.iter().filter(move |header| header.0.eq_ignore_ascii_case(name)).map(|header| header.1)
    };
    let context = TraceContext::from_headers(values("traceparent"), values("tracestate"))
        .unwrap_or_else(|| TraceContext::root(0xf << 124 | u128::from(fresh()), fresh()));
    let call_out = |_| {
        let TraceContext { parent, state } = context.child(fresh());
        let state = state.map(|state| ("tracestate", state.to_string()));
        [("traceparent", parent.to_string())].into_iter().chain(state).collect()
    };
    (0..calls).map(call_out).collect()
}

/// What the harness reads in one callback, by its own strict parser and not by the one under test.
struct Callback {
    trace_id: String,
    parent_id: String,
    flags: u8,
    state: Vec<(String, String)>,
}

impl Callback {
    fn read(headers: &[(&str, String)]) -> Self {
        let named = |name| headers.iter().filter(move |header| header.0 == name).map(|header| &header.1);
        let traceparents: Vec<_> = named("traceparent").collect();
        let [traceparent] = traceparents[..] else { panic!("one traceparent, got {traceparents:?}") };
        let fields: Vec<_> = traceparent.split('-').collect();
        let [version, trace_id, parent_id, flags] = fields[..] else { panic!("{traceparent}") };
        let hex = |text: &str| text.bytes().all(|byte| b"0123456789abcdef".contains(&byte));
        assert!(fields.iter().all(|field| hex(field)), "{traceparent}");
        assert_eq!((version, trace_id.len(), parent_id.len(), flags.len()), ("00", 32, 16, 2));
        assert!(trace_id != "0".repeat(32) && parent_id != "0".repeat(16), "{traceparent}");

        let members = named("tracestate").flat_map(|value| value.split(','));
        let members = members.map(|member| member.split_once('=').expect("a member has a key and a value"));
        Self {
            trace_id: trace_id.to_owned(),
            parent_id: parent_id.to_owned(),
            flags: u8::from_str_radix(flags, 16).unwrap(),
            state: members.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        }
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.state.iter().find_map(|(name, value)| (name == key).then_some(value.as_str()))
    }
}

fn calls(headers: Headers<'_>, count: usize) -> Vec<Callback> {
    service(headers, count).iter().map(|headers| Callback::read(headers)).collect()
}

fn call(headers: Headers<'_>) -> Callback {
    calls(headers, 1).remove(0)
}

/// The trace goes on, one step further.
fn continues(headers: Headers<'_>) -> Callback {
    let callback = call(headers);
    assert_eq!(callback.trace_id, TRACE_ID, "{headers:?}");
    assert_ne!(callback.parent_id, PARENT_ID, "{headers:?}");
    callback
}

/// A new trace starts (the service's own ids begin with `f`), and nothing of a `tracestate` is left.
fn restarts(headers: Headers<'_>) -> Callback {
    let callback = call(&[headers, &[("tracestate", "foo=1")]].concat());
    assert!(callback.trace_id.starts_with('f'), "{headers:?} continued as {}", callback.trace_id);
    assert_eq!(callback.state, [], "{headers:?}");
    callback
}

fn continues_parent(traceparent: &str) {
    continues(&[("traceparent", traceparent)]);
}

fn restarts_parent(traceparent: &str) {
    restarts(&[("traceparent", traceparent)]);
}

/// What becomes of `tracestate` headers beside a valid `traceparent`: never the end of the trace.
fn state_of(values: &[&str]) -> Callback {
    let mut headers = vec![("traceparent", TRACEPARENT)];
    headers.extend(values.iter().map(|value| ("tracestate", *value)));
    continues(&headers)
}

#[track_caller]
fn assert_members(values: &[&str], expected: &[(&str, &str)]) {
    let state = state_of(values).state;
    let state: Vec<_> = state.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(state, expected, "{values:?}");
}

#[test]
fn test_both_traceparent_and_tracestate_missing() {
    call(&[]);
}

#[test]
fn test_traceparent_included_tracestate_missing() {
    continues_parent("00-12345678901234567890123456789012-1234567890123456-01");
}

#[test]
fn test_traceparent_duplicated() {
    restarts(&[
        ("traceparent", "00-12345678901234567890123456789011-1234567890123456-01"),
        ("traceparent", "00-12345678901234567890123456789012-1234567890123456-01"),
    ]);
}

#[test]
fn test_traceparent_header_name() {
    for name in ["trace-parent", "trace.parent"] {
        restarts(&[(name, "00-12345678901234567890123456789012-1234567890123456-01")]);
    }
}

#[test]
fn test_traceparent_header_name_valid_casing() {
    for name in ["TraceParent", "TrAcEpArEnT", "TRACEPARENT"] {
        continues(&[(name, "00-12345678901234567890123456789012-1234567890123456-01")]);
    }
}

#[test]
fn test_traceparent_version_0x00() {
    restarts_parent("00-12345678901234567890123456789012-1234567890123456-01.");
    restarts_parent("00-12345678901234567890123456789012-1234567890123456-01-what-the-future-will-be-like");
}

#[test]
fn test_traceparent_version_0xcc() {
    continues_parent("cc-12345678901234567890123456789012-1234567890123456-01");
    continues_parent("cc-12345678901234567890123456789012-1234567890123456-01-what-the-future-will-be-like");
    restarts_parent("cc-12345678901234567890123456789012-1234567890123456-01.what-the-future-will-be-like");
}

#[test]
fn test_traceparent_version_0xff() {
    restarts_parent("ff-12345678901234567890123456789012-1234567890123456-01");
}

#[test]
fn test_traceparent_version_illegal_characters() {
    restarts_parent(".0-12345678901234567890123456789012-1234567890123456-01");
    restarts_parent("0.-12345678901234567890123456789012-1234567890123456-01");
}

#[test]
fn test_traceparent_version_too_long() {
    restarts_parent("000-12345678901234567890123456789012-1234567890123456-01");
    restarts_parent("0000-12345678901234567890123456789012-1234567890123456-01");
}

#[test]
fn test_traceparent_version_too_short() {
    restarts_parent("0-12345678901234567890123456789012-1234567890123456-01");
}

#[test]
fn test_traceparent_trace_id_all_zero() {
    restarts_parent("00-00000000000000000000000000000000-1234567890123456-01");
}

#[test]
fn test_traceparent_trace_id_illegal_characters() {
    restarts_parent("00-.2345678901234567890123456789012-1234567890123456-01");
    restarts_parent("00-1234567890123456789012345678901.-1234567890123456-01");
}

#[test]
fn test_traceparent_trace_id_too_long() {
    restarts_parent("00-123456789012345678901234567890123-1234567890123456-01");
}

#[test]
fn test_traceparent_trace_id_too_short() {
    restarts_parent("00-1234567890123456789012345678901-1234567890123456-01");
}

#[test]
fn test_traceparent_parent_id_all_zero() {
    restarts_parent("00-12345678901234567890123456789012-0000000000000000-01");
}

#[test]
fn test_traceparent_parent_id_illegal_characters() {
    restarts_parent("00-12345678901234567890123456789012-.234567890123456-01");
    restarts_parent("00-12345678901234567890123456789012-123456789012345.-01");
}

#[test]
fn test_traceparent_parent_id_too_long() {
    restarts_parent("00-12345678901234567890123456789012-12345678901234567-01");
}

#[test]
fn test_traceparent_parent_id_too_short() {
    restarts_parent("00-12345678901234567890123456789012-123456789012345-01");
}

#[test]
fn test_traceparent_trace_flags_illegal_characters() {
    restarts_parent("00-12345678901234567890123456789012-1234567890123456-.0");
    restarts_parent("00-12345678901234567890123456789012-1234567890123456-0.");
}

#[test]
fn test_traceparent_trace_flags_too_long() {
    restarts_parent("00-12345678901234567890123456789012-1234567890123456-001");
}

#[test]
fn test_traceparent_trace_flags_too_short() {
    restarts_parent("00-12345678901234567890123456789012-1234567890123456-1");
}

#[test]
fn test_traceparent_ows_handling() {
    continues_parent(" 00-12345678901234567890123456789012-1234567890123456-01");
    continues_parent("\t00-12345678901234567890123456789012-1234567890123456-01");
    continues_parent("00-12345678901234567890123456789012-1234567890123456-01 ");
    continues_parent("00-12345678901234567890123456789012-1234567890123456-01\t");
    continues_parent("\t 00-12345678901234567890123456789012-1234567890123456-01 \t");
}

#[test]
fn test_tracestate_included_traceparent_missing() {
    assert_eq!(call(&[("tracestate", "foo=1")]).state, []);
    assert_eq!(call(&[("tracestate", "foo=1,bar=2")]).state, []);
}

#[test]
fn test_tracestate_included_traceparent_included() {
    assert_members(&["foo=1,bar=2"], &[("foo", "1"), ("bar", "2")]);
}

#[test]
fn test_tracestate_header_name() {
    for name in ["trace-state", "trace.state"] {
        assert_eq!(continues(&[("traceparent", TRACEPARENT), (name, "foo=1")]).state, []);
    }
}

#[test]
fn test_tracestate_header_name_valid_casing() {
    for name in ["TraceState", "TrAcEsTaTe", "TRACESTATE"] {
        assert_eq!(continues(&[("traceparent", TRACEPARENT), (name, "foo=1")]).get("foo"), Some("1"));
    }
}

#[test]
fn test_tracestate_empty_header() {
    assert_members(&[""], &[]);
    assert_members(&["foo=1", ""], &[("foo", "1")]);
    assert_members(&["", "foo=1"], &[("foo", "1")]);
}

#[test]
fn test_tracestate_multiple_headers_different_keys() {
    assert_members(
        &["foo=1,bar=2", "rojo=1,congo=2", "baz=3"],
        &[("foo", "1"), ("bar", "2"), ("rojo", "1"), ("congo", "2"), ("baz", "3")],
    );
}

/// The harness accepts that repeated keys stay, or that all but one go; here the first one stays.
#[test]
fn test_tracestate_duplicated_keys() {
    assert_members(&["foo=1,foo=1"], &[("foo", "1")]);
    assert_members(&["foo=1,foo=2"], &[("foo", "1")]);
    assert_members(&["foo=1", "foo=1"], &[("foo", "1")]);
    assert_members(&["foo=1", "foo=2"], &[("foo", "1")]);
}

#[test]
fn test_tracestate_all_allowed_characters() {
    let key_without_vendor = "abcdefghijklmnopqrstuvwxyz0123456789_-*/";
    let key_with_vendor = format!("{key_without_vendor}@a-z0-9_-*/");
    let value: String = (' '..='~').filter(|character| !",=".contains(*character)).collect();
    for key in [key_without_vendor, &key_with_vendor] {
        assert_members(&[&format!("{key}={value}")], &[(key, &value)]);
    }
}

#[test]
fn test_tracestate_ows_handling() {
    let all = [("foo", "1"), ("bar", "2"), ("baz", "3")];
    assert_members(&["foo=1 \t , \t bar=2, \t baz=3"], &all);
    assert_members(&["foo=1\t \t,\t \tbar=2,\t \tbaz=3"], &all);
    for value in [" foo=1", "\tfoo=1", "foo=1 ", "foo=1\t", "\t foo=1 \t"] {
        assert_members(&[value], &[("foo", "1")]);
    }
}

#[test]
fn test_tracestate_key_illegal_characters() {
    for value in ["foo =1", "FOO=1", "foo.bar=1"] {
        assert_members(&[value], &[]);
    }
}

#[test]
fn test_tracestate_key_illegal_vendor_format() {
    assert_members(&["foo@=1,bar=2"], &[("foo@", "1"), ("bar", "2")]);
    assert_members(&["@foo=1,bar=2"], &[]);
    assert_members(&["foo@@bar=1,bar=2"], &[("foo@@bar", "1"), ("bar", "2")]);
    assert_members(&["foo@bar@baz=1,bar=2"], &[("foo@bar@baz", "1"), ("bar", "2")]);
}

#[test]
fn test_tracestate_member_count_limit() {
    let lines = [
        "bar01=01,bar02=02,bar03=03,bar04=04,bar05=05,bar06=06,bar07=07,bar08=08,bar09=09,bar10=10",
        "bar11=11,bar12=12,bar13=13,bar14=14,bar15=15,bar16=16,bar17=17,bar18=18,bar19=19,bar20=20",
        "bar21=21,bar22=22,bar23=23,bar24=24,bar25=25,bar26=26,bar27=27,bar28=28,bar29=29,bar30=30",
    ];
    let legal = state_of(&[&lines[..], &["bar31=31,bar32=32"]].concat());
    assert_eq!((legal.get("bar01"), legal.state.len()), (Some("01"), 32));
    assert_members(&[&lines[..], &["bar31=31,bar32=32,bar33=33"]].concat(), &[]);
}

#[test]
fn test_tracestate_key_length_limit() {
    let legal = ["z".repeat(256), "t".repeat(241) + "@" + &"v".repeat(14), "t".repeat(242) + "@v"];
    for key in legal.iter().map(String::as_str).chain(["t@vvvvvvvvvvvvvvv"]) {
        assert_members(&["foo=1", &format!("{key}=1")], &[("foo", "1"), (key, "1")]);
    }
    assert_members(&["foo=1", &format!("{}=1", "z".repeat(257))], &[]);
}

#[test]
fn test_tracestate_value_illegal_characters() {
    assert_members(&["foo=bar=baz"], &[]);
    assert_members(&["foo=,bar=3"], &[]);
}

/// How many different parent ids a service gives to its callbacks.
fn parent_ids(callbacks: &[Callback]) -> usize {
    callbacks.iter().map(|callback| &callback.parent_id).collect::<std::collections::BTreeSet<_>>().len()
}

#[test]
fn test_multiple_requests_with_valid_traceparent() {
    let callbacks = calls(&[("traceparent", "00-12345678901234567890123456789012-1234567890123456-01")], 3);
    assert!(callbacks.iter().all(|callback| callback.trace_id == TRACE_ID));
    assert_eq!(parent_ids(&callbacks), 3);
}

#[test]
fn test_multiple_requests_without_traceparent() {
    assert_eq!(parent_ids(&calls(&[], 3)), 3);
}

#[test]
fn test_multiple_requests_with_illegal_traceparent() {
    let callbacks = calls(&[("traceparent", "00-00000000000000000000000000000000-1234567890123456-01")], 3);
    assert!(callbacks.iter().all(|callback| callback.trace_id.starts_with('f')));
    assert_eq!(parent_ids(&callbacks), 3);
}

#[test]
fn test_propagates_random_flag() {
    let callback = continues(&[("traceparent", "00-12345678901234567890123456789012-1234567890123456-02")]);
    assert_eq!(callback.flags & 2, 2, "the random flag is not set");
}
