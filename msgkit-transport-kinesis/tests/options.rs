//! The README tells every option, as its config type does.

#[test]
fn the_options_in_the_readme_are_those_of_the_config() {
    let source = include_str!("../src/config.rs");
    let defaults = msgkit_transport_kinesis::KinesisConfig::default();
    let table = msgkit_testing::options::table(source, "KinesisConfig", &defaults);
    msgkit_testing::options::check(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"), &table);
}

#[cfg(feature = "dynamodb")]
#[test]
fn the_files_in_the_readme_are_taken() {
    let registry = msgkit::Registry::new().with(msgkit_transport_kinesis::scheme());
    msgkit_testing::options::check_examples(
        concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"),
        &registry,
        &[
            ("MSGKIT__TRANSPORTS__BACKBONE__KINESIS__ACCESS_KEY_ID", "AKIDEXAMPLE"),
            ("MSGKIT__TRANSPORTS__BACKBONE__KINESIS__SECRET_ACCESS_KEY", "secret"),
        ],
    );
}
