//! Every subject, in every scenario: the loop itself fails when a message is lost, handled twice or not retried.

use benchmarks::{
    Scenario,
    scenario::{Flow, Variant},
    subjects,
};

#[test]
fn every_subject_handles_every_message_of_every_scenario_once() {
    let mut scenarios = Scenario::all();
    scenarios.push("backlog/json/1".parse().unwrap());
    for subject in subjects::ALL {
        for &scenario in &scenarios {
            let mut regions = 0;
            let run = (subject.run)(scenario, 240, &mut |body| {
                body();
                regions += 1;
            });
            run.unwrap_or_else(|error| panic!("{} {scenario}: {error:#}", subject.name));
            assert_eq!(regions, 1, "{} {scenario} measured {regions} regions", subject.name);
        }
    }
}

#[test]
fn the_report_covers_every_variant_with_and_without_publishing() {
    for flow in [Flow::Consume, Flow::PublishHandleAck] {
        for variant in [Variant::Json, Variant::Key, Variant::Kibibyte, Variant::Types, Variant::Retry] {
            for lanes in [1, 4] {
                let wanted = |s: &Scenario| s.flow == flow && s.variant == variant && s.lanes.get() == lanes;
                assert!(Scenario::all().iter().any(wanted), "{flow:?} {variant:?} {lanes}");
            }
        }
    }
}
