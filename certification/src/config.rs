//! The configuration that members and publisher run with: the broker that is certified, and where its dead letters go.

use std::sync::Arc;

use msgkit::config::Settings;
use msgkit::transport::{Transport, TransportUrl};

use crate::{Failure, Place};

/// Where dead letters are kept.
#[derive(Debug)]
pub(crate) enum Letters {
    /// At the broker itself.
    Own,
    /// At an address of their own.
    Apart(String),
}

const SUBJECT: &str = "subject";
const APART: &str = "letters";

/// The configuration file of every member.
pub(crate) fn text(place: &Place, letters: &Letters) -> Result<String, Failure> {
    let Place { url, options, .. } = place;
    let table = match TransportUrl::parse(url)?.scheme() {
        "amqps" => "amqp",
        "mqtts" => "mqtt",
        "kafkas" => "kafka",
        scheme => scheme,
    }
    .to_owned();
    let (at, apart) = match letters {
        Letters::Own => (String::new(), String::new()),
        Letters::Apart(url) => {
            (format!("dead_letters = \"{APART}\"\n"), format!("[transports.{APART}]\nurl = \"{url}\"\n"))
        }
    };
    Ok(format!(
        "[service]\nname = \"certification\"\n\
         [transports.{SUBJECT}]\nurl = \"{url}\"\n{at}\
         [transports.{SUBJECT}.{table}]\n{options}\
         {apart}\
         [[routes]]\nmatch = \">\"\nto = \"{SUBJECT}\"\n"
    ))
}

/// The transports of a configuration.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Of the broker that is certified.
    pub(crate) subject: Arc<dyn Transport>,
    /// Of where the dead letters are; the same one where the broker keeps them itself.
    pub(crate) letters: Arc<dyn Transport>,
}

/// What `text` configures. Nothing is connected before its first use.
pub(crate) fn open(text: &str) -> Result<Opened, Failure> {
    let registry = crate::registry();
    let mut opened = Vec::new();
    for transport in Settings::parse(text, "the run's configuration", [])?.transports {
        opened.push((transport.name, registry.build(&transport.url, transport.options)?));
    }
    let find = |name: &str| opened.iter().find(|(known, _)| known == name).map(|(_, found)| found.clone());
    let subject = find(SUBJECT).ok_or_else(|| Failure::broken("the configuration has lost its transport"))?;
    let letters = find(APART).unwrap_or_else(|| subject.clone());
    Ok(Opened { subject, letters })
}
