//! What newcomers get wrong in a configuration: the program says it in one line that names the fix. Each file beside this test is one
//! mistake; those in derives are fixtures of `msgkit-macros`. `docs/proofs.md` lists both.

use std::path::Path;

use crate::config::check;

/// The file, and all that is printed, without the directory.
const MISTAKES: [(&str, &str); 8] = [
    (
        "key_unknown",
        "error: key_unknown.toml: [policies.default] has the unknown key `imediate`; did you mean `immediate`?",
    ),
    (
        "transport_unknown",
        "error: transport_unknown.toml: the route of `>` names the unknown transport `mian`; did you mean `main`?",
    ),
    ("topic_slash", ""),
    ("topic_hash", ""),
    ("namespace_undeclared", ""),
    ("namespace_file_missing", ""),
    ("scheme_misspelt", ""),
    ("scheme_unknown", ""),
];

#[test]
fn each_mistake_is_one_line_that_names_the_fix() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mistakes");
    let mut files = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        files += usize::from(entry.unwrap().path().extension().is_some_and(|end| end == "toml"));
    }
    assert_eq!(files, MISTAKES.len(), "a mistake without its message");
    for (name, wanted) in MISTAKES {
        let (content, out, error) = check(&folder.join(format!("{name}.toml")));
        assert!(!content && out.is_empty(), "{name}: {out}");
        let said = error.replace(&format!("{}/", folder.display()), "");
        assert_eq!(said, format!("{wanted}\n"), "{name}");
    }
}
