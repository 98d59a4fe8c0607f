//! The test that the README shows is the quickstart's own, which runs: a doctest cannot hold one.

#[test]
fn the_readme_shows_the_test_of_the_quickstart() {
    let readme = include_str!("../../../README.md");
    let source = include_str!("../src/main.rs");
    let block = readme.split("```rust,ignore\n").nth(1).and_then(|rest| rest.split("```").next());
    let shown: Vec<&str> = block.unwrap_or_default().lines().map(str::trim).collect();
    let own: Vec<&str> = source.lines().map(str::trim).collect();
    assert!(shown.len() > 5 && own.windows(shown.len()).any(|lines| lines == shown), "README: {shown:#?}");
}
