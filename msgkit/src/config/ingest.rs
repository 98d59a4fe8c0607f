//! `[[handlers.<name>.ingest]]`: what plain devices and foreign services send, as a handler's messages.

use serde::Deserialize;

use super::read::from_table;
use crate::envelope::ContentType;
use crate::envelope::ingest::{Ingest, IngestRule};
use crate::error::Error;
use crate::topic::Pattern;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    r#match: String,
    r#type: String,
    content_type: Option<String>,
    key_segment: Option<usize>,
}

/// Takes the rules, which stand at `place`, out of the table of a handler.
pub(super) fn take(table: &mut toml::Table, place: &str) -> Result<Ingest, Error> {
    let list = match table.remove("ingest") {
        None => return Ok(Ingest::default()),
        Some(toml::Value::Array(list)) => list,
        Some(_) => return Err(Error::config(format!("{place} is a list; write it in double brackets"))),
    };
    let rules = list.into_iter().map(|value| match value {
        toml::Value::Table(table) => rule(table, place),
        _ => Err(Error::config(format!("{place} must hold tables"))),
    });
    rules.collect::<Result<_, _>>().map(Ingest)
}

fn rule(table: toml::Table, place: &str) -> Result<IngestRule, Error> {
    let raw: RawRule = from_table(table, place)?;
    let from = Pattern::new(raw.r#match)
        .map_err(|error| Error::config(format!("{place} has a bad `match`")).with_source(error))?;
    let segments = from.as_str().split('.').count();
    if let Some(segment) = raw.key_segment.filter(|at| *at >= segments && !from.as_str().ends_with('>')) {
        return Err(Error::config(format!(
            "{place}: `key_segment = {segment}` is beyond the end of `{from}`; its segments are 0 to {}",
            segments - 1
        )));
    }
    let mut rule = IngestRule::new(from, raw.r#type);
    if let Some(media_type) = raw.content_type {
        rule.content_type = ContentType::parse(&media_type);
    }
    rule.key_segment = raw.key_segment;
    Ok(rule)
}
