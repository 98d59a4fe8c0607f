//! One fixture for each message of the derives, and for each mistake that the compiler itself reports at their places.

#[test]
fn every_mistake_is_one_error() {
    let fixtures = trybuild::TestCases::new();
    fixtures.pass("tests/ui/pass/*.rs");
    fixtures.compile_fail("tests/ui/message/*.rs");
    fixtures.compile_fail("tests/ui/handler/*.rs");
}
