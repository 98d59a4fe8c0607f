//! What the README shows is the quickstart's own: its test, which a doctest cannot hold, and what it depends on.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;

#[test]
fn the_readme_shows_the_test_of_the_quickstart() {
    let readme = include_str!("../../../README.md");
    let source = include_str!("../src/main.rs");
    let block = readme.split("```rust,ignore\n").nth(1).and_then(|rest| rest.split("```").next());
    let shown: Vec<&str> = block.unwrap_or_default().lines().map(str::trim).collect();
    let own: Vec<&str> = source.lines().map(str::trim).collect();
    assert!(shown.len() > 5 && own.windows(shown.len()).any(|lines| lines == shown), "README: {shown:#?}");
}

#[test]
fn the_readme_shows_the_dependencies_of_the_quickstart() {
    let readme = include_str!("../../../README.md");
    let block = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let shown: toml::Table = block.parse().unwrap();
    let own: toml::Table = include_str!("../Cargo.toml").parse().unwrap();
    let workspace: toml::Table = include_str!("../../../Cargo.toml").parse().unwrap();
    for section in ["dependencies", "dev-dependencies"] {
        let (shown, own) = (shown[section].as_table().unwrap(), own[section].as_table().unwrap());
        let names: Vec<_> = own.keys().filter(|name| *name != "toml").collect();
        assert_eq!(shown.keys().collect::<Vec<_>>(), names);
        for (name, shown) in shown {
            let inherited = &workspace["workspace"]["dependencies"][name];
            let version = |of: &toml::Value| {
                of.as_str().or_else(|| of.get("version")?.as_str()).unwrap_or_default().to_owned()
            };
            assert!(version(inherited).starts_with(&version(shown)), "{name}");
            let shown = features(shown);
            assert!(shown.is_superset(&features(&own[name])), "{name}: {shown:?}");
            assert!(shown.is_subset(&(&features(inherited) | &features(&own[name]))), "{name}: {shown:?}");
        }
    }
}

fn features(dependency: &toml::Value) -> BTreeSet<&str> {
    let listed = dependency.get("features").and_then(toml::Value::as_array);
    listed.into_iter().flatten().filter_map(toml::Value::as_str).collect()
}
