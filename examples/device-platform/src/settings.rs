//! The command line.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::device_hw::Speed;

/// A device platform of six components that talk by messages only, on real sensor data.
///
/// Without options all components run in this process and everything is kept in memory. Ctrl-C drains and stops.
#[derive(Debug, Parser)]
#[command(name = "device-platform", version)]
pub struct Settings {
    /// What to do; without a command the platform runs.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to run.
    #[command(flatten)]
    pub run: Run,
}

/// What to do instead of running.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Check configuration and rules without connecting, and print what they come to.
    Check,
    /// Print the components, their messages and who sends them to whom, as the code registers it.
    Catalog {
        /// In which language.
        #[arg(long, value_enum, default_value_t)]
        format: CatalogFormat,
    },
}

/// A language for diagrams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum CatalogFormat {
    /// <https://d2lang.com>
    #[default]
    D2,
    /// <https://mermaid.js.org>
    Mermaid,
}

/// How to run.
#[derive(Debug, Clone, Args)]
pub struct Run {
    /// Transports, routes and policies (TOML); without it everything goes through memory, or through SQLite with `--data`.
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// The alert rules (TOML); without it those of an office.
    #[arg(long, value_name = "FILE", global = true)]
    pub rules: Option<PathBuf>,
    /// Where to listen for HTTP. Other than loopback only with a token.
    #[arg(long, value_name = "ADDR", default_value_t = Listen::default(), global = true)]
    pub listen: Listen,
    /// The bearer token that HTTP requests must carry, at least 16 characters.
    #[arg(long, env = "DEVICE_PLATFORM_TOKEN", hide_env_values = true, value_name = "TOKEN", global = true)]
    pub token: Option<Token>,
    /// Keep messages and measurements in this directory; they survive a restart. Without it they are lost on exit.
    #[arg(long, value_name = "DIR", global = true)]
    pub data: Option<PathBuf>,
    /// Run only this component (repeatable); several processes on one `--data` or one broker then form the platform.
    #[arg(long, value_name = "NAME", value_enum, global = true)]
    pub only: Vec<Component>,
    /// How many times faster than in life `device.hw` replays the measurements; `max` is as fast as they are taken.
    #[arg(long, value_name = "N", default_value = "60", global = true)]
    pub speed: Speed,
    /// How many of the measurements `device.hw` replays, from the first one on; without it all 20,560.
    #[arg(long, value_name = "N", global = true)]
    pub readings: Option<usize>,
}

impl Run {
    /// Whether a component belongs into this process.
    #[must_use]
    pub fn runs(&self, component: Component) -> bool {
        self.only.is_empty() || self.only.contains(&component)
    }

    /// Where messages and measurements are, in a line each.
    #[must_use]
    pub fn kept(&self) -> Vec<String> {
        match (&self.config, &self.data) {
            (None, None) => vec!["everything is kept in memory; --data DIR keeps it".to_owned()],
            (None, Some(folder)) => {
                vec![format!("messages and measurements are kept in {}", folder.display())]
            }
            (Some(file), folder) => {
                let messages = format!("messages go as {} says", file.display());
                let measurements = match folder {
                    Some(folder) => format!("measurements are kept in {}", folder.display()),
                    None => "measurements are kept in memory; --data DIR keeps them".to_owned(),
                };
                vec![messages, measurements]
            }
        }
    }

    /// What clap cannot check: how the options go together.
    ///
    /// # Errors
    /// Names the options and what to do.
    pub fn check(&self) -> Result<(), SettingsError> {
        if !self.listen.is_loopback() && self.token.is_none() && self.runs(Component::ApiGateway) {
            return Err(SettingsError::Open(self.listen));
        }
        if self.config.is_none() && self.data.is_none() && !self.only.is_empty() {
            return Err(SettingsError::Alone);
        }
        Ok(())
    }
}

/// Options that do not go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// Everybody could read and write.
    #[error(
        "--listen {0} can be reached from other machines: set DEVICE_PLATFORM_TOKEN to a secret of at least 16 characters, \
         or listen on 127.0.0.1"
    )]
    Open(Listen),
    /// A component of its own in memory reaches nobody.
    #[error("--only needs a transport that other processes can reach: give --data DIR or --config FILE")]
    Alone,
}

/// A part of the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum Component {
    /// See [`crate::device_hw`].
    #[value(name = "device.hw")]
    DeviceHw,
    /// See [`crate::api_gateway`].
    #[value(name = "service_platform.api_gateway")]
    ApiGateway,
    /// See [`crate::processing`].
    #[value(name = "service_platform.container.processing")]
    Processing,
    /// See [`crate::event_rule`].
    #[value(name = "service_platform.core.event_rule")]
    EventRule,
    /// See [`crate::data_api`].
    #[value(name = "data_core.data_api")]
    DataApi,
    /// See [`crate::notification`].
    #[value(name = "service_platform.notification")]
    Notification,
}

impl Component {
    /// All of them, in the order in which data flows.
    pub const ALL: [Self; 6] = [
        Self::DeviceHw,
        Self::ApiGateway,
        Self::Processing,
        Self::DataApi,
        Self::EventRule,
        Self::Notification,
    ];

    /// The dotted name in the catalog, in traces and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeviceHw => "device.hw",
            Self::ApiGateway => "service_platform.api_gateway",
            Self::Processing => "service_platform.container.processing",
            Self::EventRule => "service_platform.core.event_rule",
            Self::DataApi => "data_core.data_api",
            Self::Notification => "service_platform.notification",
        }
    }

    /// The names of its handlers, as `[handlers.<name>]` configures them.
    #[must_use]
    pub fn handlers(self) -> &'static [&'static str] {
        match self {
            Self::DeviceHw => &[],
            Self::ApiGateway => &["answers", "dashboard_events"],
            Self::Processing => &["processing"],
            Self::EventRule => &["event_rule", "answers"],
            Self::DataApi => &["store_readings", "store_alerts", "store_journal", "answer"],
            Self::Notification => &["notification"],
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An address to listen on: `127.0.0.1:8080`, `[::1]:0`, `0.0.0.0:80`, `localhost:8080`, or only a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen(pub SocketAddr);

impl Listen {
    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_loopback(self) -> bool {
        self.0.ip().to_canonical().is_loopback()
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an address: give IP:PORT as in 127.0.0.1:8080 or [::1]:8080 (port 0 takes a free one)")]
pub struct ListenError(String);

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let local = |port: &str| Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse::<u16>().ok()?)));
        let address = match text.rsplit_once(':') {
            None => local(text),
            Some(("localhost" | "", port)) => local(port),
            Some(_) => text.parse().ok(),
        };
        address.map(Self).ok_or_else(|| ListenError(text.to_owned()))
    }
}

/// A secret that opens the HTTP interface. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The secret itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Not good enough a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a token is at least 16 characters from `!` to `~`, so that it is hard to guess and fits into a header"
)]
pub struct TokenError;

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = text.len() >= 16 && text.bytes().all(|b| b.is_ascii_graphic());
        if good { Ok(Self(text.to_owned())) } else { Err(TokenError) }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn run(arguments: &[&str]) -> Result<Run, String> {
        let arguments = std::iter::once(&"device-platform").chain(arguments);
        let settings = Settings::try_parse_from(arguments).map_err(|e| e.to_string())?;
        settings.run.check().map(|()| settings.run).map_err(|e| e.to_string())
    }

    #[test]
    fn the_definition_is_consistent() {
        Settings::command().debug_assert();
    }

    #[test]
    fn without_options_everything_runs_on_loopback() {
        let run = run(&[]).unwrap();
        assert_eq!(run.listen.to_string(), "127.0.0.1:8080");
        assert!(Component::ALL.into_iter().all(|component| run.runs(component)));
        assert_eq!(run.speed.to_string(), "60");
    }

    #[test]
    fn only_names_components_as_the_catalog_does() {
        for component in Component::ALL {
            let run = run(&["--data", "d", "--only", component.as_str()]).unwrap();
            assert_eq!(run.only, [component]);
        }
        let error = run(&["--data", "d", "--only", "data_core.data_ap"]).unwrap_err();
        assert!(error.contains("data_core.data_api"), "{error}");
        assert!(run(&["--only", "device.hw"]).unwrap_err().contains("give --data DIR or --config FILE"));
    }

    #[test]
    fn beyond_loopback_a_token_is_needed_and_never_printed() {
        let error = run(&["--listen", "0.0.0.0:8080"]).unwrap_err();
        assert!(error.contains("set DEVICE_PLATFORM_TOKEN"), "{error}");
        let run = run(&["--listen", "0.0.0.0:8080", "--token", "correct-horse-battery"]).unwrap();
        assert!(!format!("{run:?}").contains("horse"));
        assert!("short".parse::<Token>().is_err());
    }

    #[test]
    fn a_mapped_loopback_address_is_loopback() {
        assert!(run(&["--listen", "[::ffff:127.0.0.1]:80"]).is_ok());
        assert!(run(&["--listen", "[::1]:0"]).is_ok());
        assert_eq!(run(&["--listen", "localhost:81"]).unwrap().listen.to_string(), "127.0.0.1:81");
        assert_eq!(run(&["--listen", "82"]).unwrap().listen.to_string(), "127.0.0.1:82");
        assert!(run(&["--listen", "[::]:80"]).is_err());
        assert!(run(&["--listen", "example"]).unwrap_err().contains("give IP:PORT"));
    }

    #[test]
    fn options_may_stand_behind_the_command() {
        let arguments = ["device-platform", "catalog", "--format", "mermaid", "--data", "d"];
        let settings = Settings::try_parse_from(arguments).unwrap();
        assert!(matches!(settings.command, Some(Command::Catalog { format: CatalogFormat::Mermaid })));
        assert_eq!(settings.run.data, Some("d".into()));
    }
}
