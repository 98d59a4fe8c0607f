//! Configuration from the environment: `MSGKIT__TRANSPORTS__EDGE__URL` is `[transports.edge] url`.

use crate::error::Error;

/// What the variables begin with.
const PREFIX: &str = "MSGKIT__";
const ONE: &str = "MSGKIT_";

/// The variables that begin with `MSGKIT__`, in the order of their names.
pub(super) fn variables(environment: impl IntoIterator<Item = (String, String)>) -> Vec<(String, String)> {
    let mut variables: Vec<_> = environment
        .into_iter()
        .filter(|(name, _)| name.starts_with(PREFIX) || has_one_underscore(name))
        .collect();
    variables.sort();
    variables
}

/// Puts `variables` over what `table` says. Names are found whatever their case, `-` and `_` alike; what is no key at all
/// is found by the strict read that follows.
pub(super) fn apply(table: &mut toml::Table, variables: &[(String, String)]) -> Result<(), Error> {
    for (name, value) in variables {
        if has_one_underscore(name) {
            let rest = name.trim_start_matches(ONE);
            return Err(Error::config(format!(
                "environment variable {name} is not read; write {PREFIX}{rest}, two underscores"
            )));
        }
        let path: Vec<String> = name[PREFIX.len()..].split("__").map(str::to_ascii_lowercase).collect();
        if path.iter().any(String::is_empty) {
            return Err(Error::config(format!(
                "environment variable {name} names no key; write {PREFIX}<TABLE>__<KEY>, two underscores between"
            )));
        }
        set(table, &path, name, value)?;
    }
    Ok(())
}

/// Whether it is meant for a section, and begins as no variable of configuration does: `MSGKIT_TRANSPORTS__EDGE__URL`.
fn has_one_underscore(name: &str) -> bool {
    let section = name.strip_prefix(ONE).and_then(|rest| rest.split_once("__"));
    section.is_some_and(|(section, _)| super::settings::SECTIONS.iter().any(|known| alike(known, section)))
}

/// The names of those that set a part of `[transports.<name>]`.
pub(super) fn of_transport(variables: &[(String, String)], name: &str) -> Vec<String> {
    let is_of = |variable: &&String| {
        let mut path = variable[PREFIX.len()..].split("__");
        path.next().is_some_and(|first| alike("transports", first))
            && path.next().is_some_and(|of| alike(name, of))
    };
    variables.iter().map(|(variable, _)| variable).filter(is_of).cloned().collect()
}

fn set(table: &mut toml::Table, path: &[String], name: &str, value: &str) -> Result<(), Error> {
    let Some((first, rest)) = path.split_first() else { return Ok(()) };
    let key = table.keys().find(|key| alike(key, first)).cloned().unwrap_or_else(|| first.clone());
    if rest.is_empty() {
        // What is a table of options in the file may be switched off: `delayed`, `breaker`.
        if value != "false"
            && let Some(toml::Value::Table(_) | toml::Value::Array(_)) = table.get(&key)
        {
            return Err(Error::config(format!(
                "environment variable {name} names a table; name one key in it"
            )));
        }
        table.insert(key, toml::Value::String(value.to_owned()));
        return Ok(());
    }
    match table.entry(key).or_insert_with(|| toml::Value::Table(toml::Table::new())) {
        toml::Value::Table(inner) => set(inner, rest, name, value),
        _ => {
            Err(Error::config(format!("environment variable {name} goes below `{first}`, which is no table")))
        }
    }
}

fn alike(key: &str, segment: &str) -> bool {
    key.len() == segment.len()
        && key.bytes().zip(segment.bytes()).all(|(a, b)| {
            let plain = |byte: u8| if byte == b'-' { b'_' } else { byte.to_ascii_lowercase() };
            plain(a) == plain(b)
        })
}
