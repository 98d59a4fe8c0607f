//! The code in the guide for transport authors is the example's own.

use std::fs;
use std::path::Path;

/// Lines without their indentation and without empty ones.
fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

/// What stands between ```` ```rs ```` and ```` ``` ````.
fn blocks(guide: &str) -> Vec<&str> {
    guide.split("\n```rs\n").skip(1).filter_map(|rest| rest.split("\n```").next()).collect()
}

#[test]
fn every_block_of_the_guide_is_taken_from_the_example() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = fs::read_to_string(example.join("../../docs/guides/transport-authors.md")).unwrap();
    let mut sources = Vec::new();
    for file in fs::read_dir(example.join("src")).unwrap() {
        sources.push(fs::read_to_string(file.unwrap().path()).unwrap());
    }
    sources.push(fs::read_to_string(example.join("tests/conformance.rs")).unwrap());
    let blocks = blocks(&guide);
    assert!(blocks.len() > 10, "the guide has lost its blocks: {}", blocks.len());
    for block in blocks {
        let wanted = lines(block);
        let found =
            sources.iter().any(|source| lines(source).windows(wanted.len()).any(|part| part == wanted));
        assert!(found, "the guide has what the example has not:\n{block}");
    }
}
