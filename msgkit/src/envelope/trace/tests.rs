//! The W3C harness case by case, then what it leaves open: which field is at fault, the normal form of a list, how a
//! list is shortened, and random input against a second, plainer reading of the grammar.

use super::{InvalidTraceContext, TraceContext, TraceParent, TraceState};

mod harness;
mod properties;

/// The rules of `traceparent` that the harness does not look at.
mod parent {
    use super::{InvalidTraceContext, TraceParent};

    const TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn gives_the_parts_of_the_text() {
        let parent: TraceParent = TEXT.parse().unwrap();
        assert_eq!(parent.trace_id().get(), 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(parent.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(parent.parent_id().get(), 0x00f0_67aa_0ba9_02b7);
        assert_eq!(parent.parent_id().to_string(), "00f067aa0ba902b7");
        assert_eq!((parent.sampled(), parent.random()), (true, false));
        assert_eq!(parent.to_string(), TEXT);
        assert_eq!(format!("{parent:?}"), format!("TraceParent({TEXT})"));
        assert_eq!(parent.write_to(&mut [b'x'; TraceParent::LENGTH]), TEXT);
    }

    #[test]
    fn a_root_is_random_and_not_sampled_and_a_child_inherits() {
        let root = TraceParent::root(0xabc, 0xdef);
        assert_eq!(root.to_string(), "00-00000000000000000000000000000abc-0000000000000def-02");
        let sampled = root.child(7).with_sampled(true);
        assert_eq!(sampled.to_string(), "00-00000000000000000000000000000abc-0000000000000007-03");
        assert_eq!(sampled.child(8).to_string(), "00-00000000000000000000000000000abc-0000000000000008-03");
        let unsampled = sampled.child(9).with_sampled(false);
        assert_eq!(unsampled.to_string(), "00-00000000000000000000000000000abc-0000000000000009-02");
    }

    #[test]
    fn a_drawn_zero_still_gives_a_legal_id() {
        let root = TraceParent::root(0, 0);
        assert_eq!(root.trace_id().to_string(), "00000000000000000000000000000001");
        assert_eq!(root.parent_id().to_string(), "0000000000000001");
        assert_eq!(root.child(0), root);
    }

    #[test]
    fn later_versions_and_unknown_flags_are_written_as_version_00() {
        let text = |text: &str| TraceParent::parse(text).map(|parent| parent.to_string());
        let (all, known) = (TEXT.replace("-01", "-ff"), TEXT.replace("-01", "-03"));
        assert_eq!(text(&all), Ok(known.clone()));
        assert_eq!(text(&all.replacen("00", "01", 1)), Ok(known.clone()));
        assert_eq!(text(&(all.replacen("00", "fe", 1) + "-")), Ok(known.clone()));
        assert_eq!(text(&(all.replacen("00", "fe", 1) + "-\u{e9}=?")), Ok(known));
        assert_eq!(text(&TEXT.replace("-01", "-fc")), Ok(TEXT.replace("-01", "-00")));
    }

    #[test]
    fn an_error_names_the_field() {
        let error = |text: &str| TraceParent::parse(text).unwrap_err();
        assert_eq!(error(""), InvalidTraceContext::Length);
        assert_eq!(error(&TEXT[..54]), InvalidTraceContext::Length);
        assert_eq!(error(&format!("{TEXT}-")), InvalidTraceContext::Length);
        for (at, field) in [
            (0, InvalidTraceContext::Version),
            (2, InvalidTraceContext::Version),
            (3, InvalidTraceContext::TraceId),
            (35, InvalidTraceContext::TraceId),
            (36, InvalidTraceContext::ParentId),
            (52, InvalidTraceContext::ParentId),
            (53, InvalidTraceContext::Flags),
            (54, InvalidTraceContext::Flags),
        ] {
            // Each of these breaks any field: no hex digit, upper case, a sign, whitespace, half of a character.
            for byte in [b'g', b'A', b'+', b' ', 0xc3] {
                let mut text = <[u8; 55]>::try_from(TEXT.as_bytes()).unwrap();
                text[at] = byte;
                assert_eq!(TraceParent::parse(text), Err(field), "{byte} at {at}");
            }
        }
        assert_eq!(error(&TEXT.replacen("00", "ff", 1)), InvalidTraceContext::Version);
        assert_eq!(error(&(TEXT.replacen("00", "01", 1) + "0")), InvalidTraceContext::Flags);
        assert!(error(" ").to_string().starts_with("traceparent: not 55 characters"));
    }

    #[test]
    fn is_small() {
        assert_eq!(size_of::<TraceParent>(), 32);
        assert_eq!(size_of::<Option<TraceParent>>(), 32);
    }
}

/// The rules of `tracestate` that the harness does not look at, and of both headers together.
mod state {
    use super::{InvalidTraceContext, TraceContext, TraceParent, TraceState};

    fn state(text: &str) -> TraceState {
        text.parse().unwrap()
    }

    #[test]
    fn normal_form_joins_what_has_a_meaning() {
        let combined = TraceState::combine([" , a=1 ,\t", "", ",b=  2 x ,a=3,,", " "]).unwrap().unwrap();
        assert_eq!(combined.as_str(), "a=1,b=  2 x");
        assert_eq!(combined, state("a=1,b=  2 x"));
        assert_eq!(combined.to_string(), combined.as_ref());
        assert_eq!(combined.members().collect::<Vec<_>>(), [("a", "1"), ("b", "  2 x")]);
        assert_eq!((combined.get("b"), combined.get("c")), (Some("  2 x"), None));
    }

    #[test]
    fn an_empty_list_is_legal_but_no_state() {
        for values in [&[][..], &[""], &[" \t", ",,"]] {
            assert_eq!(TraceState::combine(values.iter().copied()), Ok(None));
        }
        assert_eq!(" ,".parse::<TraceState>(), Err(InvalidTraceContext::NoMembers));
    }

    #[test]
    fn an_error_names_the_fault() {
        let error = |text: &str| text.parse::<TraceState>().unwrap_err();
        for text in ["=1", "A=1", "a\u{e9}=1", "_a=1", "a.b=1", "\u{a0}a=1", "ok=1,a =1"] {
            assert_eq!(error(text), InvalidTraceContext::Key, "{text}");
        }
        for text in ["a", "a=", "a= \t", "a=b=c", "a=\u{e9}", "a=1\t2", "a=\u{7f}", "ok=1,a=\n"] {
            assert_eq!(error(text), InvalidTraceContext::Value, "{text}");
        }
        assert_eq!(state(&format!("a={}", "v".repeat(256))).members().count(), 1);
        assert_eq!(error(&format!("a={}", "v".repeat(257))), InvalidTraceContext::Value);
        assert!(error("A=1").to_string().starts_with("tracestate: a key"));
    }

    #[test]
    fn empty_members_do_not_count_and_repeated_ones_do() {
        let members: Vec<_> = (0..32).map(|n| format!("k{n}={n}")).collect();
        assert_eq!(state(&members.join(", ,,")).members().count(), 32);
        let repeated = members.join(",") + ",k0=0";
        assert_eq!(repeated.parse::<TraceState>(), Err(InvalidTraceContext::TooManyMembers));
    }

    #[test]
    fn truncation_takes_the_oversized_first_and_then_the_last() {
        // 128 characters are not oversized, 129 are.
        let member = |key: &str, length: usize| format!("{key}={}", "x".repeat(length - 2));
        let (a, b, d, e) = (member("a", 128), member("b", 129), member("d", 129), member("e", 100));
        let list = state(&[a.as_str(), &b, "c=1", &d, &e, "f=1"].join(","));
        assert_eq!(list.as_str().len(), 497);
        let truncated = |limit| list.truncated(limit).map_or_else(String::new, |list| list.to_string());
        assert_eq!(truncated(497), list.as_str());
        assert_eq!(truncated(496), [a.as_str(), &b, "c=1", &e, "f=1"].join(","));
        assert_eq!(truncated(367), [a.as_str(), &b, "c=1", &e, "f=1"].join(","));
        assert_eq!(truncated(366), [a.as_str(), "c=1", &e, "f=1"].join(","));
        assert_eq!(truncated(236), [a.as_str(), "c=1", &e].join(","));
        assert_eq!(truncated(232), [a.as_str(), "c=1"].join(","));
        assert_eq!(truncated(131), a);
        assert_eq!(list.truncated(127), None);
        assert_eq!(list.truncated(0), None);
    }

    #[test]
    fn a_clone_passes_a_long_state_on_and_a_child_shortens_it() {
        let long = (0..30).map(|n| format!("k{n:02}={}", "v".repeat(20))).collect::<Vec<_>>().join(",");
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03";
        let context = TraceContext::from_headers([parent], [long.as_str()]).unwrap();
        assert_eq!(context.parent.to_string(), parent);
        assert_eq!(context.state.as_ref().map(TraceState::as_str), Some(long.as_str()));

        let child = context.child(1);
        assert_eq!(child.parent, context.parent.child(1));
        let kept = child.state.unwrap();
        assert_eq!((kept.as_str().len(), kept.members().count()), (499, 20));
        assert!(long.starts_with(kept.as_str()));
    }

    #[test]
    fn a_state_of_up_to_512_characters_is_shared_and_not_copied() {
        let longest = state(&format!("a={},b={}", "v".repeat(252), "v".repeat(255)));
        assert_eq!(longest.as_str().len(), 512);
        let context = TraceContext { parent: TraceParent::root(1, 1), state: Some(longest) };
        let child = context.child(2);
        assert!(std::ptr::eq(context.state.unwrap().as_str(), child.state.unwrap().as_str()));
    }

    #[test]
    fn tracestate_is_not_read_after_a_faulty_traceparent() {
        let unread = std::iter::from_fn(|| -> Option<&str> { panic!("tracestate was read") });
        assert_eq!(TraceContext::from_headers(["00-"], unread), None);
    }
}

#[test]
fn flags_are_told_and_kept() {
    let parent = TraceParent::root(1, 2).with_sampled(true);
    assert!(parent.sampled() && parent.with_sampled(true).sampled());
    assert!(!parent.with_sampled(false).with_sampled(false).sampled());
    let (ids, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    for (flags, sampled, random) in
        [("00", false, false), ("01", true, false), ("02", false, true), ("ff", true, true)]
    {
        let read = TraceParent::parse(format!("00-{ids}-{parent}-{flags}")).unwrap();
        assert_eq!((read.sampled(), read.random()), (sampled, random), "{flags}");
        assert_eq!(
            format!("{:?} {:?}", read.trace_id(), read.parent_id()),
            format!("TraceId({ids}) SpanId({parent})")
        );
    }
}
