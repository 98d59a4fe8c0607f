//! RabbitMQ's management API, as far as the suite needs it: plain HTTP, one request a connection.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// A broker that runs already.
#[derive(Debug, Clone)]
pub(crate) struct Management {
    /// Its address with user and password, without a virtual host.
    amqp: String,
    host: String,
}

impl Management {
    pub(crate) fn from_environment() -> Result<Self, String> {
        let read = |name: &str| std::env::var(name).map_err(|_| format!("no broker: `{name}` is not set"));
        Ok(Self { amqp: read("MSGKIT_AMQP_URL")?, host: read("MSGKIT_AMQP_MANAGEMENT")? })
    }

    pub(crate) fn version(&self) -> Result<String, String> {
        let overview: serde_json::Value = self.json("/api/overview")?;
        overview["rabbitmq_version"].as_str().map(str::to_owned).ok_or_else(|| "unknown".to_owned())
    }

    pub(crate) fn make_vhost(&self, vhost: &str) -> Result<(), String> {
        self.ask("PUT", &format!("/api/vhosts/{vhost}"), "{}")?;
        let all = r#"{"configure":".*","write":".*","read":".*"}"#;
        self.ask("PUT", &format!("/api/permissions/{vhost}/guest"), all).map(drop)
    }

    pub(crate) fn remove_vhost(&self, vhost: &str) -> Result<(), String> {
        self.ask("DELETE", &format!("/api/vhosts/{vhost}"), "").map(drop)
    }

    /// The broker's `host:port`.
    pub(crate) fn broker(&self) -> String {
        self.amqp.rsplit(['@', '/']).next().unwrap_or_default().to_owned()
    }

    fn json(&self, path: &str) -> Result<serde_json::Value, String> {
        let body = self.ask("GET", path, "")?;
        serde_json::from_str(&body).map_err(|error| format!("{path}: {error}"))
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Result<String, String> {
        let failed = |error: std::io::Error| format!("{} {path}: {error}", self.host);
        let mut stream = TcpStream::connect(&self.host).map_err(failed)?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).map_err(failed)?;
        let length = body.len();
        let host = &self.host;
        // guest:guest
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: {host}\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).map_err(failed)?;
        let mut response = String::new();
        stream.read_to_string(&mut response).map_err(failed)?;
        let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
        let status = head.split(' ').nth(1).unwrap_or_default();
        if !status.starts_with('2') {
            return Err(format!("{method} {path}: {status} {body}"));
        }
        Ok(body.to_owned())
    }
}
