use proptest::prelude::*;

use super::attributes::{self, Reader};
use super::*;
use crate::topic::Topic;

fn topic(name: &str) -> Topic {
    name.parse().unwrap()
}

/// An envelope that has everything an envelope can have.
fn full(payload: Option<Bytes>, content_type: ContentType) -> Envelope {
    let now: Timestamp = "2026-01-31T12:00:00.123456789Z".parse().unwrap();
    let mut envelope =
        Envelope::new("crm", "crm.customer.created", topic("crm.customer"), content_type, Bytes::new(), now);
    let cause =
        Envelope::new("web", "web.form.sent", topic("web.form"), ContentType::Json, Bytes::new(), now);
    envelope.set_cause(&cause);
    envelope.set_payload(payload);
    envelope.set_key(Some("c 1/ü".into()));
    envelope.headers_mut().insert("tenant".try_into().unwrap(), "t\"1\\ü").unwrap();
    envelope.set_subject(Some("customer 1".into()));
    envelope.set_data_schema(Some("https://example.org/schema".into()));
    envelope.set_sequence(Some("0007".into()));
    envelope.set_reply_to(Some(topic("crm.answers")));
    envelope.set_not_before(Some(now));
    envelope.set_expires(Some(now.after(std::time::Duration::from_secs(60))));
    envelope.set_principal(Some("user:7".into()));
    envelope.set_data_ref(Some("s3://bucket/key".into()));
    envelope.set_attempt(4);
    envelope.set_retry(Some(Retry { round: 2, first: now, last_start: true }));
    let mut letter = DeadLetter::new(DeadLetterKind::Timeout, "too slow", now);
    (letter.attempts, letter.replays, letter.position) = (4, 1, Some("3/17".into()));
    (letter.topic, letter.group, letter.service, letter.handler) =
        ("crm.customer".into(), "g".into(), "s".into(), "h".into());
    letter.fingerprint();
    envelope.set_dead_letter(Some(letter));
    let mut native = NativeHeaders::new();
    native.push("X-Odd Name", NativeValue::Null);
    native.push("twice", 1_i64);
    native.push("twice", NativeValue::Float(f64::INFINITY));
    native.push("bytes", Bytes::from_static(b"\xff\x00"));
    native.push(
        "deep",
        NativeValue::Table(vec![("a".into(), NativeValue::List(vec![true.into(), "x".into()]))]),
    );
    envelope.set_native(native);
    envelope
}

/// By way of the list of attributes, as a transport with headers does it.
fn through_attributes(envelope: &Envelope) -> Envelope {
    let mut reader = Reader::new(&topic("elsewhere"));
    attributes::visit(envelope, |name, value| reader.attribute(name, value));
    for (name, value) in envelope.native().iter() {
        reader.native(name, value.clone());
    }
    assert!(reader.is_event());
    reader.finish(envelope.payload_bytes()).unwrap()
}

#[test]
fn every_attribute_survives_both_wire_forms() {
    let payloads: [(Option<&[u8]>, ContentType); 8] = [
        (Some(br#"{"a":1}"#), ContentType::Json),
        (Some(b" {\"a\": 1}\n"), ContentType::Json),
        (Some(b"null"), ContentType::Json),
        (Some(b"not json"), ContentType::Json),
        (Some(b""), ContentType::Json),
        (None, ContentType::Json),
        (Some(b"\x81\xa1a\x01"), ContentType::MessagePack),
        (Some(b"plain"), ContentType::parse("text/plain; charset=utf-8")),
    ];
    for (payload, content_type) in payloads {
        let envelope = full(payload.map(Bytes::from_static), content_type);
        for read in [
            through_attributes(&envelope),
            structured::from_slice(&structured::to_vec(&envelope), &topic("elsewhere")).unwrap(),
        ] {
            assert_eq!(attributes::list(&read), attributes::list(&envelope), "{payload:?}");
            assert_eq!(read.payload_bytes(), envelope.payload_bytes());
            assert_eq!(read.native(), envelope.native());
            assert_eq!(read, envelope);
            assert_eq!(read.dead_letter(), envelope.dead_letter());
        }
    }
}

#[test]
fn any_cloud_event_is_read_and_what_is_odd_is_kept() {
    let json = br#"{"specversion":"1.0","id":"A-1","source":"/x","type":"t","time":"yesterday","count":7,"obj":{"a":1},
        "traceparent":"junk","id":"second","data":{"z":[1, 2]}}"#;
    let envelope = structured::from_slice(json, &topic("from.here")).unwrap();
    assert_eq!((envelope.id().to_string().as_str(), envelope.topic().as_str()), ("A-1", "from.here"));
    assert_eq!((envelope.time(), envelope.headers().get("count")), (None, Some("7")));
    assert_eq!(envelope.native().get("time").and_then(NativeValue::as_str), Some("yesterday"));
    assert_eq!(envelope.native().get("obj").and_then(NativeValue::as_str), Some(r#"{"a":1}"#));
    assert_eq!(envelope.payload(), br#"{"z":[1, 2]}"#);
    for (missing, json) in [
        ("specversion", r#"{"id":"1","source":"s","type":"t"}"#),
        ("id", r#"{"specversion":"1.0","source":"s","type":"t"}"#),
        ("source", r#"{"specversion":"1.0","id":"1","type":"t"}"#),
        ("type", r#"{"specversion":"1.0","id":"1","source":"s","type":""}"#),
    ] {
        let error = structured::from_slice(json.as_bytes(), &topic("t")).unwrap_err().to_string();
        assert!(error.contains(&format!("`{missing}`")), "{error}");
    }
    let old =
        structured::from_slice(br#"{"specversion":"0.3","id":"1","source":"s","type":"t"}"#, &topic("t"));
    assert!(old.unwrap_err().to_string().contains("1.0 can be read"));
}

/// The least that makes an event, and more.
fn event(more: &[(&str, &str)]) -> Reader {
    let mut reader = Reader::new(&topic("t"));
    let least = [("specversion", "1.0"), ("id", "1"), ("source", "s"), ("type", "t")];
    for (name, value) in least.iter().chain(more) {
        reader.attribute(name, value);
    }
    reader
}

#[test]
fn the_limits_of_a_dead_letter_hold_for_those_of_others() {
    let error = format!("a\nb\u{7f}{}", "ü".repeat(2000));
    let reader = event(&[("dlkind", "panic"), ("dlerror", &error)]);
    let read = reader.finish(None).unwrap();
    let error = &read.dead_letter().unwrap().error;
    assert!(error.len() <= MAX_ERROR && error.starts_with("a\\nb\\u{7f}ü"), "{error}");
    assert_eq!(structured::from_slice(&structured::to_vec(&read), &topic("t")).unwrap(), read);
}

#[test]
fn facts_without_what_makes_them_a_death_or_a_retry_are_kept() {
    let at = "2026-01-31T12:00:00Z";
    let sent =
        [("dlkind", "mystery"), ("dlerror", "why"), ("dlattempts", "3"), ("dlfirst", at), ("retryfirst", at)];
    let read = event(&sent).finish(None).unwrap();
    assert_eq!((read.dead_letter(), read.retry()), (None, None));
    for (name, value) in sent {
        assert_eq!(read.native().get(name).and_then(NativeValue::as_str), Some(value), "{name}");
    }
    assert_eq!(through_attributes(&read), read);
}

#[test]
fn what_is_no_event_keeps_every_header() {
    let mut reader = Reader::new(&topic("t"));
    let sent =
        [("id", "7"), ("time", "2026-01-31T12:00:00Z"), ("tenant", "a"), ("traceparent", "x"), ("hop", "-1")];
    for (name, value) in sent {
        reader.attribute(name, value);
    }
    assert!(!reader.is_event());
    let native = reader.into_native();
    assert_eq!(native.len(), sent.len());
    for (name, value) in sent {
        assert_eq!(native.get(name).and_then(NativeValue::as_str), Some(value), "{name}");
    }
}

#[test]
fn what_is_no_event_keeps_its_traces_to_the_letter() {
    let usual = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let later = "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more";
    let flags = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-05";
    for sent in
        [&[usual][..], &[later], &[flags], &[usual, usual], &[usual, flags], &[later, usual], &["", usual]]
    {
        let mut reader = Reader::new(&topic("t"));
        sent.iter().for_each(|value| reader.attribute("traceparent", value));
        let native = reader.into_native();
        let kept: Vec<_> = native.iter().filter_map(|(_, value)| value.as_str()).collect();
        assert_eq!(kept, sent);
        let more: Vec<_> = sent.iter().map(|value| ("traceparent", *value)).collect();
        let trace = event(&more).finish(None).unwrap().trace().parent.trace_id().to_string();
        assert_eq!(
            trace == "0af7651916cd43dd8448eb211c80319c",
            sent.len() == 1,
            "{sent:?}: several are none"
        );
    }
}

#[test]
fn the_first_of_a_repeated_attribute_counts() {
    let reader = event(&[
        ("payloadnull", "true"),
        ("payloadnull", "false"),
        ("retryround", "1"),
        ("retryround", "2"),
        ("retrylast", "false"),
        ("retrylast", "true"),
        ("subject", "a"),
        ("subject", "b"),
    ]);
    let read = reader.finish(Some(Bytes::new())).unwrap();
    assert!(read.is_null());
    assert_eq!(read.retry().map(|retry| (retry.round, retry.last_start)), Some((1, false)));
    assert_eq!(read.subject(), Some("a"));
}

#[test]
fn counts_stop_at_the_largest_that_a_wire_carries() {
    let most = i32::MAX.to_string();
    let sent = [("hop", &*most), ("dlkind", "crash"), ("dlreplays", &most)];
    let last = event(&sent).finish(None).unwrap();
    let mut next = last.replayed();
    next.set_cause(&last);
    next.set_attempt(u32::MAX);
    let read = through_attributes(&next);
    assert_eq!((read.hop(), read.attempt()), (i32::MAX.unsigned_abs(), i32::MAX.unsigned_abs()));
    assert_eq!(read.dead_letter().unwrap().replays, i32::MAX.unsigned_abs());
    assert!(read == next && read.native().is_empty());
}

#[test]
fn an_envelope_with_nan_equals_its_copy() {
    let mut envelope = full(None, ContentType::Json);
    envelope.set_native(NativeHeaders::from_iter([("f", NativeValue::Float(f64::NAN))]));
    assert_eq!(through_attributes(&envelope), envelope);
    assert_ne!(NativeValue::Float(0.0), NativeValue::Float(-0.0));
}

#[test]
fn what_identifies_a_message_is_printed_and_nothing_else() {
    let envelope = full(Some(Bytes::from_static(b"secret payload")), ContentType::Json);
    let printed = format!("{envelope:?}");
    assert!(printed.contains("crm.customer.created"));
    assert!(
        !printed.contains("secret") && !printed.contains("user:7") && !printed.contains("tenant"),
        "{printed}"
    );
}

#[test]
fn attribute_names_are_no_headers_and_are_sorted_for_the_search() {
    for name in [
        "id",
        "type",
        "dlkind",
        "partitionkey",
        "notbefore",
        "data",
        "specversion",
        "causationid",
        "traceparent",
    ] {
        assert!(HeaderName::new(name).is_err(), "{name}");
    }
    let mut all = Vec::new();
    attributes::visit(&full(None, ContentType::Json), |name, _| all.push(name.to_owned()));
    for name in all.iter().filter(|name| *name != "tenant") {
        assert!(attributes::is_attribute(name), "{name}");
    }
    for bad in ["", "Tenant", "a-b", "a_b", "twentyonecharacterslo"] {
        assert!(HeaderName::new(bad).is_err(), "{bad}");
    }
}

#[test]
fn ids_are_kept_to_the_letter_and_derived_ones_never_change() {
    for id in
        ["018f4c2e-7b1a-7c3d-8e5f-0123456789ab", "018F4C2E-7B1A-7C3D-8E5F-0123456789AB", "order:7", "{x}"]
    {
        assert_eq!(MessageId::parse(id).unwrap().to_string(), id);
    }
    assert!(
        MessageId::parse("").is_err()
            && MessageId::parse(&"x".repeat(256)).is_err()
            && MessageId::parse("a\n").is_err()
    );
    let derived = MessageId::derived(&[b"a", b"bc"]);
    assert_eq!(derived, MessageId::derived(&[b"a", b"bc"]));
    assert_ne!(derived, MessageId::derived(&[b"ab", b"c"]));
    assert_eq!(derived.to_string(), "fed1c491-66e3-529c-b984-8c9e06dc85cf");
}

#[test]
fn a_replay_forgets_its_attempts_and_counts_itself() {
    let replayed = full(Some(Bytes::new()), ContentType::Json).replayed();
    assert_eq!((replayed.attempt(), replayed.retry(), replayed.not_before()), (0, None, None));
    assert_eq!(replayed.dead_letter().unwrap().replays, 2);
}

#[test]
fn an_envelope_tells_what_was_set() {
    let now: Timestamp = "2026-01-31T12:00:00.123456789Z".parse().unwrap();
    let told = full(Some(Bytes::from_static(b"{}")), ContentType::Json);
    assert_eq!(
        (told.source(), told.kind(), told.topic().as_str()),
        ("crm", "crm.customer.created", "crm.customer")
    );
    assert_eq!(
        (told.time(), told.content_type(), told.key()),
        (Some(now), &ContentType::Json, Some("c 1/ü"))
    );
    assert_eq!(
        (told.payload(), told.payload_bytes(), told.is_null()),
        (&b"{}"[..], Some("{}".into()), false)
    );
    assert_eq!((told.hop(), told.attempt()), (1, 4));
    assert_eq!(told.causation_id(), Some(told.correlation_id()), "its cause is the first of the flow");
    assert_ne!(told.correlation_id(), told.id());
    assert_eq!(told.headers().get("tenant"), Some("t\"1\\ü"));
    assert_eq!((told.subject(), told.sequence()), (Some("customer 1"), Some("0007")));
    assert_eq!(told.data_schema(), Some("https://example.org/schema"));
    assert_eq!(
        (told.reply_to().map(Topic::as_str), told.data_ref()),
        (Some("crm.answers"), Some("s3://bucket/key"))
    );
    assert_eq!(told.not_before(), Some(now));
    assert_eq!(told.expires(), Some(now.after(std::time::Duration::from_secs(60))));
    assert_eq!(told.principal(), Some("user:7"));
    assert_eq!(told.retry(), Some(&Retry { round: 2, first: now, last_start: true }));
    assert_eq!(told.dead_letter().map(|letter| letter.kind), Some(DeadLetterKind::Timeout));
    assert_eq!(told.native().len(), 5);

    let mut bare = told.clone();
    bare.set_payload(None);
    bare.set_time(None);
    bare.set_key(Some("".into()));
    bare.set_subject(Some("".into()));
    bare.set_data_schema(None);
    bare.set_sequence(None);
    bare.set_reply_to(None);
    bare.set_not_before(None);
    bare.set_expires(None);
    bare.set_principal(None);
    bare.set_data_ref(None);
    bare.set_retry(None);
    bare.set_dead_letter(None);
    bare.set_native(NativeHeaders::new());
    assert!(bare.is_null() && bare.payload().is_empty() && bare.payload_bytes().is_none());
    assert_eq!((bare.time(), bare.key(), bare.subject(), bare.data_schema()), (None, None, None, None));
    assert_eq!(
        (bare.sequence(), bare.reply_to(), bare.principal(), bare.data_ref()),
        (None, None, None, None)
    );
    assert_eq!(
        (bare.not_before(), bare.expires(), bare.retry(), bare.dead_letter()),
        (None, None, None, None)
    );
    assert!(bare.native().is_empty());
    assert_eq!(told.subject(), Some("customer 1"), "a clone is changed alone");

    let trace = plain().trace().clone();
    bare.set_trace(trace.clone());
    assert_eq!(bare.trace(), &trace);
    let other = MessageId::parse("other").unwrap();
    bare.set_id(other.clone());
    bare.set_correlation_id(other.clone());
    bare.set_topic(topic("elsewhere"));
    assert_eq!((bare.id(), bare.correlation_id(), bare.topic().as_str()), (&other, &other, "elsewhere"));
}

/// One that nobody has changed.
fn plain() -> Envelope {
    let now = Timestamp::from_millis(1_767_225_600_000);
    Envelope::new("s", "t", topic("t"), ContentType::Json, Bytes::from_static(b"{}"), now)
}

#[test]
fn a_new_envelope_begins_a_flow_of_its_own() {
    let (one, two) = (plain(), plain());
    assert_ne!(one.id(), two.id());
    assert_ne!(one.trace().parent.trace_id(), two.trace().parent.trace_id());
    assert_eq!((one.correlation_id(), one.causation_id(), one.hop()), (one.id(), None, 0));
    let mut caused = plain();
    let mut cause = plain();
    cause.set_principal(Some("user:7".into()));
    caused.set_cause(&cause);
    assert_eq!(caused.trace().parent.trace_id(), cause.trace().parent.trace_id());
    assert_ne!(caused.trace().parent, cause.trace().parent, "a span of its own");
    let spans = [(); 2].map(|()| {
        caused.set_cause(&cause);
        caused.trace().parent
    });
    assert_ne!(spans[0], spans[1]);
    assert_eq!((caused.principal(), caused.hop()), (Some("user:7"), 1));
}

#[test]
fn what_has_a_past_or_a_schedule_is_not_plain() {
    let at = Timestamp::from_millis(1);
    let retry = Retry { round: 0, first: at, last_start: false };
    let mut rare = plain();
    rare.set_subject(Some("rare".into()));
    for envelope in [plain(), rare] {
        assert!(envelope.is_plain());
        let mut changed = [(); 4].map(|()| envelope.clone());
        changed[0].set_attempt(1);
        changed[1].set_retry(Some(retry));
        changed[2].set_not_before(Some(at));
        changed[3].set_expires(Some(at));
        assert_eq!(changed.map(|envelope| envelope.is_plain()), [false; 4]);
    }
}

#[test]
fn what_only_few_have_can_be_set_where_there_was_none_of_it() {
    let at = Timestamp::from_millis(1);
    let mut dead = plain();
    dead.set_dead_letter(Some(DeadLetter::new(DeadLetterKind::Crash, "gone", at)));
    assert_eq!(dead.dead_letter().map(|letter| letter.kind.to_string()), Some("crash".to_owned()));
    let mut foreign = plain();
    foreign.set_native(NativeHeaders::from_iter([("a", "1")]));
    assert_eq!(foreign.native().len(), 1);
    let mut none = plain();
    none.set_not_before(None);
    none.set_retry(None);
    none.set_dead_letter(None);
    none.set_native(NativeHeaders::new());
    assert!(none.rare().is_none(), "what sets nothing takes no room");
    assert!(event(&[]).finish(None).unwrap().rare().is_none(), "nor does what is read");
}

#[test]
fn the_attributes_of_a_plain_event_are_these() {
    let envelope = plain();
    let list = attributes::list(&envelope);
    let names: Vec<&str> = list.iter().map(|(name, _)| name.as_str()).collect();
    let wanted = "correlationid datacontenttype hop id source specversion time topic traceparent type";
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(sorted.join(" "), wanted);
    let value = |name: &str| list.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    assert_eq!((value("source"), value("type"), value("topic")), (Some("s"), Some("t"), Some("t")));
    assert_eq!((value("hop"), value("specversion")), (Some("0"), Some("1.0")));
    assert_eq!(value("id"), Some(&*envelope.id().to_string()));
}

#[test]
fn an_event_has_these_four_attributes() {
    let least = [("specversion", "1.0"), ("id", "1"), ("source", "s"), ("type", "t")];
    assert!(event(&[]).is_event());
    for missing in least {
        let mut reader = Reader::new(&topic("t"));
        for (name, value) in least.iter().filter(|one| **one != missing) {
            reader.attribute(name, value);
        }
        assert!(!reader.is_event(), "without {missing:?}");
    }
}

#[test]
fn a_value_that_does_not_fit_its_attribute_is_kept_beside_it() {
    let long = "x".repeat(MAX_VALUE + 1);
    for (name, value) in
        [("subject", ""), ("subject", &long), ("datacontenttype", ""), ("datacontenttype", &long)]
    {
        let read = event(&[(name, value)]).finish(None).unwrap();
        assert_eq!((read.subject(), read.content_type()), (None, &ContentType::Json), "{name}");
        assert_eq!(read.native().get(name).and_then(NativeValue::as_str), Some(value));
    }
    let most = "x".repeat(MAX_VALUE);
    assert_eq!(event(&[("subject", &most)]).finish(None).unwrap().subject(), Some(&*most));
    let read = event(&[("dlx", "a header of somebody's")]).finish(None).unwrap();
    assert_eq!(read.headers().get("dlx"), Some("a header of somebody's"));
}

#[test]
fn a_trace_state_is_read_and_a_trace_is_begun_where_there_is_none() {
    let parent = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let read = event(&[parent, ("tracestate", "a=1,b=2")]).finish(None).unwrap();
    assert_eq!(read.trace().state.as_ref().map(trace::TraceState::as_str), Some("a=1,b=2"));
    assert!(read.native().is_empty());
    let begun = [(); 2].map(|()| event(&[]).finish(None).unwrap().trace().parent);
    assert_ne!(begun[0].trace_id(), begun[1].trace_id());
}

#[test]
fn the_structured_form_holds_json_as_it_is_and_everything_else_as_base64() {
    let written = |payload: &'static [u8], content_type| {
        let payload = Bytes::from_static(payload);
        let envelope = Envelope::new("s", "t", topic("t"), content_type, payload, Timestamp::EPOCH);
        let json = String::from_utf8(structured::to_vec(&envelope)).unwrap();
        json[json.rfind(",\"data").unwrap() + 1..].to_owned()
    };
    assert_eq!(written(b"{\"a\": [1]}", ContentType::Json), "\"data\":{\"a\": [1]}}");
    assert_eq!(written(b"[1]", ContentType::parse("text/plain")), "\"data_base64\":\"WzFd\"}");
    assert_eq!(written(b"[1", ContentType::Json), "\"data_base64\":\"WzE=\"}");
    assert_eq!(written(b" [1]", ContentType::Json), "\"data_base64\":\"IFsxXQ==\"}");
}

#[test]
fn data_is_read_by_its_media_type_and_the_first_of_it_counts() {
    let read = |more: &str| {
        let json = format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"t",{more}}}"#);
        let envelope = structured::from_slice(json.as_bytes(), &topic("t")).unwrap();
        assert!(envelope.native().is_empty() && envelope.headers().is_empty(), "{more}");
        assert_eq!(envelope.subject(), None, "{more}");
        envelope.payload_bytes()
    };
    let some = |bytes: &'static [u8]| Some(Bytes::from_static(bytes));
    assert_eq!(read(r#""data":"a\nb""#), some(br#""a\nb""#), "a JSON text is kept as it stands");
    assert_eq!(read(r#""data":"a\nb","datacontenttype":"text/plain""#), some(b"a\nb"));
    assert_eq!(read(r#""data":[1, 2],"datacontenttype":"text/plain""#), some(b"[1, 2]"));
    assert_eq!(read(r#""data":"a","datacontenttype":"application/problem+json""#), some(br#""a""#));
    assert_eq!(read(r#""data":null"#), None);
    assert_eq!(read(r#""subject":null,"data":1"#), some(b"1"));
    assert_eq!(read(r#""data":1,"data_base64":"MjI=","data":3"#), some(b"1"));
    assert_eq!(read(r#""data_base64":"MjI=","data":1,"data_base64":"MzM=""#), some(b"22"));
    let refused = structured::from_slice(b"[1]", &topic("t")).unwrap_err();
    assert!(
        crate::Chain(&refused).to_string().contains("expected a JSON object"),
        "{}",
        crate::Chain(&refused)
    );
}

#[test]
fn texts_of_nothing_but_what_json_writes_otherwise_come_back() {
    for value in ["\"", "\"\"", "\\", "\\\\", "\\\""] {
        let mut envelope = plain();
        envelope.headers_mut().insert("note".try_into().unwrap(), value).unwrap();
        let read = structured::from_slice(&structured::to_vec(&envelope), &topic("t")).unwrap();
        assert_eq!(read.headers().get("note"), Some(value));
    }
}

#[test]
fn envelopes_are_equal_where_everything_on_the_wire_is() {
    let envelope = plain();
    let differ: [fn(&mut Envelope); 4] = [
        |envelope| envelope.set_payload(Some(Bytes::from_static(b"[]"))),
        |envelope| envelope.set_payload(None),
        |envelope| envelope.set_key(Some("k".into())),
        |envelope| envelope.set_native(NativeHeaders::from_iter([("a", "1")])),
    ];
    for change in differ {
        let mut other = envelope.clone();
        other.set_time(other.time());
        assert_eq!(other, envelope);
        change(&mut other);
        assert_ne!(other, envelope);
    }
}

#[test]
fn a_hint_is_for_one_transport_and_not_on_the_wire() {
    let mut envelope = plain();
    let hint = |transport: &str, name: &str| Hint {
        transport: transport.into(),
        name: name.into(),
        value: NativeValue::Bool(true),
    };
    envelope.add_hint(hint("mqtt", "retain"));
    envelope.add_hint(hint("amqp", "priority"));
    assert_eq!(envelope.hints("mqtt").map(|hint| hint.name.as_str()).collect::<Vec<_>>(), ["retain"]);
    assert_eq!(envelope.hints("kafka").count(), 0);
    assert_eq!(through_attributes(&envelope).hints("mqtt").count(), 0);
}

proptest! {
    #[test]
    fn no_bytes_make_the_structured_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = structured::from_slice(&bytes, &topic("t"));
    }

    #[test]
    fn no_attributes_make_the_reader_panic(
        pairs in proptest::collection::vec(("[a-z]{0,14}|id|type|source|specversion|time|hop|dlkind|nativeheaders", ".{0,40}"), 0..12)
    ) {
        let mut reader = Reader::new(&topic("t"));
        for (name, value) in &pairs {
            reader.attribute(name, value);
        }
        let _ = reader.finish(None);
    }

    #[test]
    fn any_payload_and_header_round_trips(payload in proptest::collection::vec(any::<u8>(), 0..200), value in "[^\\p{Cc}\\p{Cn}]{0,60}") {
        let mut envelope = full(Some(payload.into()), ContentType::Json);
        prop_assume!(envelope.headers_mut().insert("other".try_into().unwrap(), value).is_ok());
        let read = structured::from_slice(&structured::to_vec(&envelope), &topic("elsewhere")).unwrap();
        prop_assert_eq!(read.payload_bytes(), envelope.payload_bytes());
        prop_assert_eq!(read.headers(), envelope.headers());
    }
}
