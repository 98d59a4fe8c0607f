//! What newcomers get wrong in a configuration: the program says it in one line that names the fix. Each file beside this test is one
//! mistake; those in derives are fixtures of `msgkit-macros`. `docs/proofs.md` lists both.

use std::path::Path;

use crate::platform::check;

/// The file, and all that is printed: without the directory, and `…` for the list of known schemes, which the program's features make.
const MISTAKES: [(&str, &str); 8] = [
    (
        "key_unknown",
        "key_unknown.toml: [policies.default] has the unknown key `imediate`; did you mean `immediate`?",
    ),
    (
        "transport_unknown",
        "transport_unknown.toml: the route of `>` names the unknown transport `mian`; did you mean `main`?",
    ),
    (
        "topic_slash",
        "topic_slash.toml: [[routes]] has a bad `match`: segment `device/+/reading` of topic `device/+/reading` holds '/'; \
         a segment is made of A-Z a-z 0-9 _ -; segments are separated by `.`, a transport turns it into its own separator",
    ),
    (
        "topic_hash",
        "topic_hash.toml: [[routes]] has a bad `match`: pattern `device.#` has the wildcard `#`; write `*` for one segment \
         and a trailing `>` for one or more",
    ),
    (
        "namespace_undeclared",
        "device.hw: service `hw` breaks rules of the catalog: deny [undeclared_namespace]: topic `device.{device_id}.reading` \
         of `device.reading.reported` lies in no declared namespace; declare `[namespaces.device]` with its team, or use a topic \
         below a declared one",
    ),
    (
        "namespace_file_missing",
        "the namespaces file namespace.toml cannot be read; check `[catalog] namespaces`: No such file or directory (os error 2)",
    ),
    (
        "scheme_misspelt",
        "scheme_misspelt.toml: [transports.main] cannot be used: transport scheme `sqltie` is unknown; known are …; did you \
         mean `sqlite`?",
    ),
    (
        "scheme_unknown",
        "scheme_unknown.toml: [transports.main] cannot be used: transport scheme `zeromq` is unknown; known are …; add its \
         crate and register it: `Registry::new().with(the_crate::scheme())`",
    ),
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
        let (begin, end) = wanted.split_once('…').unwrap_or((wanted, ""));
        assert!(
            said.starts_with(&format!("error: {begin}")) && said.ends_with(&format!("{end}\n")),
            "{name}: {said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
        let listed = said.len() - "error: \n".len() - begin.len() - end.len();
        assert!(listed == 0 || wanted.contains('…'), "{said}");
    }
}
