//! The address of a transport: the first line is an address, the second the name of a scheme, the rest options in TOML.

use std::fmt::Write as _;

use msgkit::config::Settings;
use msgkit::transport::{Options, TransportUrl};
use serde::Deserialize;

use crate::refusal;

/// What must not be printed.
const SECRET: &str = "hunter2hunter2";

/// The options of some transport.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    client_id: Option<String>,
    password: Option<String>,
    keep_alive: u16,
    clean: bool,
    ratio: f64,
}

/// Panics where a promise does not hold for these bytes.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (url, rest) = text.split_once('\n').unwrap_or((text, ""));
    let (scheme, options) = rest.split_once('\n').unwrap_or((rest, ""));
    match TransportUrl::parse(url) {
        Ok(read) => {
            survives(&read);
            read_options(&read, options);
        }
        Err(error) => {
            let refusal = refusal::check(&error);
            assert!(url.len() < 20 || !refusal.contains(url), "a refusal repeats the address: {refusal}");
        }
    }
    keeps_the_secret(scheme, url, options);
}

/// The address, written by the rules, reads as an equal one.
fn survives(url: &TransportUrl) {
    assert!(!url.scheme().is_empty() && url.scheme() == url.scheme().to_ascii_lowercase());
    let mut written = format!("{}:", url.scheme());
    let beginning = url.address().split('/').next().unwrap_or("");
    match url.user() {
        Some(user) => {
            let _ = write!(written, "//{}", escaped(user));
            if let Some(password) = url.password() {
                let _ = write!(written, ":{}", escaped(password));
            }
            written.push('@');
        }
        // The short form, in which `@` is a part of the path.
        None if beginning.contains('@') => {}
        None => written.push_str("//"),
    }
    written.push_str(url.address());
    for (at, (name, value)) in url.query().enumerate() {
        let _ = write!(written, "{}{}={}", if at == 0 { '?' } else { '&' }, escaped(name), escaped(value));
    }
    // A pair without a name and a value is none.
    assert_eq!(TransportUrl::parse(&written).as_ref().ok(), Some(url), "{written}");
    let shown = TransportUrl::parse(&url.to_string());
    assert!(shown.is_ok_and(|shown| shown.password().is_none() && shown.scheme() == url.scheme()));
}

fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        let _ = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => write!(escaped, "{}", char::from(byte)),
            _ => write!(escaped, "%{byte:02x}"),
        };
        escaped
    })
}

fn read_options(url: &TransportUrl, toml: &str) {
    let read = Options::from_toml("[transports.x.y]", toml).and_then(|options| options.read::<Config>(url));
    match read {
        Ok(config) => {
            let last = url.query().filter(|(name, _)| *name == "client_id").last();
            assert!(last.is_none_or(|(_, value)| config.client_id.as_deref() == Some(value)));
        }
        Err(error) => drop(refusal::check(&error)),
    }
}

/// Whatever stands around a password, it is not printed: by the address, by a refusal, by a configuration.
fn keeps_the_secret(scheme: &str, rest: &str, toml: &str) {
    if [scheme, rest, toml].iter().any(|text| text.contains("hunter")) {
        return;
    }
    let silent = |text: &str| assert!(!text.contains(SECRET), "a password is printed: {text}");
    let address = format!("{scheme}://user:{SECRET}@{rest}");
    match TransportUrl::parse(&address) {
        Ok(url) => {
            silent(&format!("{url} {url:?}"));
            if let Err(error) = url.broker() {
                silent(&refusal::check(&error));
            }
            if let Err(error) = Options::new("[transports.x.y]").read::<Config>(&url) {
                silent(&refusal::check(&error));
            }
        }
        Err(error) => silent(&refusal::check(&error)),
    }
    // As an option, in a file whose other lines may be wrong in any way.
    for toml in [format!("password = \"{SECRET}\"\n{toml}"), format!("{toml}\nkeep_alive = \"{SECRET}\"")] {
        if let Ok(url) = TransportUrl::parse("mqtt://localhost") {
            let options = Options::from_toml("[transports.x.y]", &toml);
            if let Ok(options) = &options {
                silent(&format!("{options:?}"));
            }
            if let Err(error) = options.and_then(|options| options.read::<Config>(&url)) {
                silent(&refusal::check(&error));
            }
        }
    }
    // A JSON string is one of TOML.
    let address = serde_json::Value::String(address);
    let toml = format!("[service]\nname = \"s\"\n[transports.t]\nurl = {address}\n");
    match Settings::parse(&toml, "msgkit.toml", []) {
        Ok(settings) => silent(&format!("{settings:?}")),
        Err(error) => silent(&refusal::check(&error)),
    }
}
