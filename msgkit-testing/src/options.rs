//! The table of a transport's options, written from its config type: every option with its default and its documentation.
//!
//! The crate's README has it between `<!-- options -->` and `<!-- /options -->`; a test of the crate keeps it current:
//!
//! ```no_run
//! # #[derive(serde::Serialize, Default)] struct MqttConfig;
//! let table = msgkit_testing::options::table("…", "MqttConfig", &MqttConfig::default());
//! // `include_str!("../src/config.rs")` instead of "…"
//! msgkit_testing::options::check("README.md", &table);
//! ```
//!
//! The config type derives `Serialize`, secrets with `#[serde(skip_serializing)]`, so that nothing can write them anywhere.

use std::fmt::Write as _;
use std::path::Path;

use msgkit::config::Settings;
use msgkit::{Chain, Registry};
use serde::Serialize;
use serde_json::Value;

const BEGIN: &str = "<!-- options -->\n";
const END: &str = "<!-- /options -->";
/// Where it is `1`, [`check`] writes the table instead.
const WRITE: &str = "MSGKIT_WRITE_DOCS";

/// The table of the struct `name`, whose definition stands in `source`; `defaults` is its default value.
///
/// # Panics
/// Where the struct is not there, an option has no documentation, or one that `defaults` has was not found.
#[must_use]
pub fn table(source: &str, name: &str, defaults: &impl Serialize) -> String {
    let defaults = match serde_json::to_value(defaults) {
        Ok(Value::Object(defaults)) => defaults,
        other => panic!("the default of `{name}` is no map of options: {other:?}"),
    };
    let options = options(source, name);
    for known in defaults.keys() {
        assert!(options.iter().any(|(option, _)| option == known), "`{known}` of `{name}` was not found");
    }
    let mut table = String::from("| option | default | |\n|---|---|---|\n");
    for (option, doc) in options {
        assert!(!doc.is_empty(), "option `{option}` of `{name}` has no documentation");
        let default = match defaults.get(&option) {
            None | Some(Value::Null) => "none".to_owned(),
            Some(Value::String(text)) if text.is_empty() => "none".to_owned(),
            Some(Value::String(text)) => format!("`{text}`"),
            Some(value) => value.to_string(),
        };
        // Writing to a `String` does not fail.
        let _ = writeln!(table, "| `{option}` | {default} | {} |", doc.replace('|', "\\|"));
    }
    table
}

/// Asserts that `file` has `table` between its marks; with `MSGKIT_WRITE_DOCS=1` puts it there.
///
/// # Panics
/// Where it does not, or the file cannot be read, or has no marks.
pub fn check(file: impl AsRef<Path>, table: &str) {
    let file = file.as_ref();
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => panic!("{}: {error}", file.display()),
    };
    let Some((before, rest)) = text.split_once(BEGIN) else {
        panic!("{} has no `{}`", file.display(), BEGIN.trim_end())
    };
    let Some((found, after)) = rest.split_once(END) else { panic!("{} has no `{END}`", file.display()) };
    if found == table {
        return;
    }
    if std::env::var(WRITE).is_ok_and(|value| value == "1") {
        let written = std::fs::write(file, format!("{before}{BEGIN}{table}{END}{after}"));
        assert!(written.is_ok(), "{}: {written:?}", file.display());
        return;
    }
    panic!(
        "the options in {} are stale; run this test with {WRITE}=1. It has\n{found}\nand should have\n{table}",
        file.display()
    );
}

/// Asserts that every configuration in the TOML blocks of `file` is a whole one, and that the transports of it that `registry` knows
/// take their options; `environment` has what a file does not hold, like secrets. Blocks that are none, of Cargo or of other tables alone, are told by what they begin with: a configuration
/// begins with `[service]`.
///
/// # Panics
/// Where one is refused, with the reason, or there is none, or the file cannot be read.
pub fn check_examples(file: impl AsRef<Path>, registry: &Registry, environment: &[(&str, &str)]) {
    let file = file.as_ref();
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => panic!("{}: {error}", file.display()),
    };
    let blocks = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let examples: Vec<&str> = blocks.filter(|block| block.starts_with("[service]")).collect();
    assert!(!examples.is_empty(), "{} has no configuration that begins with `[service]`", file.display());
    let environment: Vec<(String, String)> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    for example in examples {
        let settings = match Settings::parse(example, &file.display().to_string(), environment.clone()) {
            Ok(settings) => settings,
            Err(error) => panic!("{}\n{example}", Chain(&error)),
        };
        let known = |scheme: &str| registry.schemes().any(|known| known == scheme);
        for transport in settings.transports.iter().filter(|transport| known(transport.url.scheme())) {
            if let Err(error) = transport.build(registry) {
                panic!("{}\n{example}", Chain(&error));
            }
        }
    }
}

/// The public fields of a struct, each with its documentation in one line.
fn options(source: &str, name: &str) -> Vec<(String, String)> {
    let head = format!("pub struct {name} {{");
    let Some((_, body)) = source.split_once(&head) else { panic!("`{head}` is not in the source") };
    let (mut options, mut doc, mut renamed) = (Vec::new(), String::new(), None);
    for line in body.lines().map(str::trim) {
        if line == "}" {
            break;
        }
        if let Some(text) = line.strip_prefix("///") {
            if !doc.is_empty() && !text.is_empty() {
                doc.push(' ');
            }
            doc.push_str(text.trim());
        } else if let Some(rest) = line.strip_prefix("#[serde(rename = \"") {
            renamed = rest.split('"').next().map(str::to_owned);
        } else if let Some((field, _)) = line.strip_prefix("pub ").and_then(|rest| rest.split_once(':')) {
            options.push((renamed.take().unwrap_or_else(|| field.to_owned()), std::mem::take(&mut doc)));
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "
        /// Another.
        pub struct Other {
            /// Not this.
            pub no: u8,
        }
        #[derive(Serialize)]
        pub struct Config {
            /// How many, `a|b`.
            ///
            /// At least one.
            pub many: u32,
            /// The secret.
            #[serde(skip_serializing)]
            pub secret: Option<String>,
            /// Another name.
            #[serde(rename = \"said\")]
            pub named: String,
            hidden: bool,
        }
    ";

    #[derive(Serialize)]
    struct Config {
        many: u32,
        #[serde(skip_serializing)]
        #[allow(dead_code)]
        secret: Option<String>,
        said: String,
    }

    fn config() -> Config {
        Config { many: 7, secret: Some("5ecr3t".to_owned()), said: "x".to_owned() }
    }

    #[test]
    fn every_option_is_a_line_with_its_default_and_no_secret() {
        assert_eq!(
            table(SOURCE, "Config", &config()),
            "| option | default | |\n|---|---|---|\n\
             | `many` | 7 | How many, `a\\|b`. At least one. |\n\
             | `secret` | none | The secret. |\n\
             | `said` | `x` | Another name. |\n"
        );
    }

    #[test]
    #[should_panic(expected = "`many` of `Config` was not found")]
    fn an_option_that_is_not_found_is_no_table() {
        let _ = table("pub struct Config {\n}", "Config", &config());
    }

    #[test]
    #[should_panic(expected = "has no documentation")]
    fn an_option_without_documentation_is_no_table() {
        let _ = table("pub struct Config {\n pub many: u32,\n pub said: u32,\n}", "Config", &config());
    }
}
