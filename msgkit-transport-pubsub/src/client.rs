//! Where the service is and who we are there: the clients of the transport, made with their first use.
//!
//! Google's client does not notice a connection that has fallen silent without ending: nothing of HTTP/2 asks for a sign of
//! life. So those that read are asked by a [pulse](Clients::pulse), the one that publishes by each publish, and whichever
//! gets no answer is [exchanged](Renewed).

use std::fmt;
use std::time::Duration;

use google_cloud_auth::credentials::{self, Credentials};
use google_cloud_gax::retry_policy::RetryPolicyExt as _;
use google_cloud_pubsub::client::{BasePublisher, Subscriber, SubscriptionAdmin, TopicAdmin};
use google_cloud_pubsub::retry_policy::RetryableErrors;
use msgkit::transport::{TransportError, TransportErrorKind};
use msgkit::{Error, ErrorKind};
use tokio::sync::OnceCell;

use crate::config::PubsubConfig;
use crate::connections::{Connection, Connections, Renewed, Seat};

/// What every emulator's clients look at.
const EMULATOR: &str = "PUBSUB_EMULATOR_HOST";

/// The clients of one transport; clones of what they give share its connections.
pub(crate) struct Clients {
    endpoint: Option<String>,
    credentials: Option<Key>,
    patience: Duration,
    publish_timeout: Duration,
    topics: OnceCell<TopicAdmin>,
    subscriptions: OnceCell<SubscriptionAdmin>,
    publisher: Renewed<BasePublisher>,
    connections: Connections,
}

/// The key of a service account, which is never printed.
struct Key(serde_json::Value);

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Clients {
    /// By the options and the environment, in this order; connects to nothing.
    pub(crate) fn new(config: &PubsubConfig) -> Result<Self, Error> {
        let refuse = |text: String| Err(Error::new(ErrorKind::Config, text));
        let emulator = std::env::var(EMULATOR).ok().filter(|host| !host.is_empty());
        let endpoint = config.endpoint.clone().or_else(|| {
            emulator.map(|host| if host.contains("://") { host } else { format!("http://{host}") })
        });
        let plain = endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        if let Some(endpoint) = &endpoint
            && !plain
            && !endpoint.starts_with("https://")
        {
            return refuse(format!(
                "`endpoint = \"{endpoint:.100}\"` of a Pub/Sub transport must begin with `http://` (an emulator) or `https://`"
            ));
        }
        if !plain && !cfg!(feature = "tls") {
            return refuse(
                "Pub/Sub is spoken to by TLS, which is the feature `tls` of msgkit-transport-pubsub; add it, or set `endpoint` or \
                 PUBSUB_EMULATOR_HOST to an emulator"
                    .to_owned(),
            );
        }
        // Google's client makes a TLS client for an emulator too, and panics where it finds no provider.
        if !cfg!(feature = "tls") && rustls::crypto::CryptoProvider::get_default().is_none() {
            return refuse(
                "without the feature `tls` of msgkit-transport-pubsub the program has to install a provider of `rustls` before it \
                 makes a Pub/Sub transport (`CryptoProvider::install_default`); do so, or add the feature"
                    .to_owned(),
            );
        }
        let credentials = match &config.credentials_file {
            Some(_) if plain => {
                return refuse(
                    "`credentials_file` of a Pub/Sub transport must not go to an `http://` endpoint, where everybody on the way \
                     could read them; leave one of them out"
                        .to_owned(),
                );
            }
            Some(file) => {
                let text = std::fs::read_to_string(file).map_err(|error| {
                    Error::new(
                        ErrorKind::Config,
                        format!(
                            "the `credentials_file` {} of a Pub/Sub transport cannot be read",
                            file.display()
                        ),
                    )
                    .with_source(error)
                })?;
                // What was read is not told: it is a secret.
                let Ok(key) = serde_json::from_str::<serde_json::Value>(&text) else {
                    return refuse(format!(
                        "the `credentials_file` {} of a Pub/Sub transport is no JSON; it should be the key of a service account",
                        file.display()
                    ));
                };
                // A field that is none, or something else than a text, would be told with its value.
                let fields = ["client_email", "private_key_id", "private_key", "project_id"];
                let missing = fields.into_iter().find(|field| !serde_json::Value::is_string(&key[*field]));
                if let Some(field) = missing {
                    return refuse(format!(
                        "the `credentials_file` {} of a Pub/Sub transport has no text `{field}`; it should be the key of a service \
                         account",
                        file.display()
                    ));
                }
                Some(Key(key))
            }
            None => None,
        };
        Ok(Self {
            endpoint,
            credentials,
            patience: config.connect_timeout,
            publish_timeout: config.publish_timeout,
            topics: OnceCell::new(),
            subscriptions: OnceCell::new(),
            publisher: Renewed::new(),
            connections: Connections::default(),
        })
    }

    fn credentials(&self) -> Result<Credentials, TransportError> {
        if self.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://")) {
            return Ok(credentials::anonymous::Builder::new().build());
        }
        let none = |hint: &str| {
            let text = format!("there are no credentials for Pub/Sub; {hint}");
            TransportError::new(TransportErrorKind::Refused, text)
        };
        match &self.credentials {
            // The library's error may show what was read.
            Some(Key(key)) => credentials::service_account::Builder::new(key.clone()).build().map_err(|_| {
                none("look at `credentials_file`, which should be the key of a service account as Google made it")
            }),
            None => credentials::Builder::default().build().map_err(|error| {
                none(
                    "set GOOGLE_APPLICATION_CREDENTIALS or `credentials_file`, or run `gcloud auth application-default login`",
                )
                .with_source(error)
            }),
        }
    }

    pub(crate) async fn topics(&self) -> Result<&TopicAdmin, TransportError> {
        let make = || async {
            let mut builder = TopicAdmin::builder()
                .with_credentials(self.credentials()?)
                .with_retry_policy(RetryableErrors.with_time_limit(self.patience));
            if let Some(endpoint) = &self.endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            builder.build().await.map_err(made)
        };
        self.topics.get_or_try_init(make).await
    }

    pub(crate) async fn subscriptions(&self) -> Result<&SubscriptionAdmin, TransportError> {
        let make = || async {
            let mut builder = SubscriptionAdmin::builder()
                .with_credentials(self.credentials()?)
                .with_retry_policy(RetryableErrors.with_time_limit(self.patience));
            if let Some(endpoint) = &self.endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            builder.build().await.map_err(made)
        };
        self.subscriptions.get_or_try_init(make).await
    }

    pub(crate) async fn publisher(&self) -> Result<BasePublisher, TransportError> {
        let make = async {
            let mut builder = BasePublisher::builder()
                .with_credentials(self.credentials()?)
                .with_retry_policy(RetryableErrors.with_time_limit(self.publish_timeout));
            if let Some(endpoint) = &self.endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            builder.build().await.map_err(made)
        };
        self.publisher.get(make).await
    }

    /// Which client publishes now, for [`renew_publisher`](Self::renew_publisher).
    pub(crate) fn publishers(&self) -> u64 {
        self.publisher.generation()
    }

    /// The client of `generation` got no answer: the next publish is by another one.
    pub(crate) fn renew_publisher(&self, generation: u64) -> bool {
        self.publisher.renew(generation, None)
    }

    /// Room for one stream.
    pub(crate) fn seat(&self) -> Seat {
        self.connections.seat()
    }

    /// The client of a connection that has room for a stream.
    pub(crate) async fn subscriber(&self, seat: &Seat) -> Result<Subscriber, TransportError> {
        seat.client().get(self.new_subscriber()).await
    }

    async fn new_subscriber(&self) -> Result<Subscriber, TransportError> {
        let mut builder = Subscriber::builder().with_credentials(self.credentials()?);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        builder.build().await.map_err(made)
    }

    /// Asks whether the connections by which messages come are alive, where nothing has come by them since this was done last.
    /// What is asked for is `nothing`, a subscription that does not exist: the client can do nothing there but read, and any
    /// answer will do.
    pub(crate) async fn pulse(&self, nothing: &str) {
        let asking = self.connections.silent().into_iter().map(|connection| self.ask(connection, nothing));
        futures_util::future::join_all(asking).await;
    }

    /// Exchanges the client of a connection that gives no answer where another one does. Where none does the service may refuse
    /// for now, which the client tells nobody: to begin anew would only ask more of it.
    async fn ask(&self, connection: std::sync::Arc<Connection>, nothing: &str) {
        let generation = connection.client.generation();
        let Ok(client) = connection.client.get(self.new_subscriber()).await else { return };
        if self.answers(&client, nothing).await {
            return;
        }
        let Ok(other) = self.new_subscriber().await else { return };
        if self.answers(&other, nothing).await
            && connection.is_silent()
            && connection.client.renew(generation, Some(other))
        {
            tracing::warn!(
                "a connection by which messages come from Pub/Sub has been silent for {:?}, while another one got an answer; it is \
                 exchanged",
                self.patience
            );
        }
    }

    async fn answers(&self, client: &Subscriber, nothing: &str) -> bool {
        let mut stream = client.subscribe(nothing).build();
        tokio::time::timeout(self.patience, stream.next()).await.is_ok()
    }
}

/// A client that could not be made: its options cannot be.
fn made(error: impl std::error::Error + Send + Sync + 'static) -> TransportError {
    TransportError::new(TransportErrorKind::Refused, "making a client of Pub/Sub failed; look at `endpoint`")
        .with_source(error)
}

#[cfg(all(test, not(feature = "tls")))]
mod tests {
    use super::*;

    #[test]
    fn without_a_provider_of_tls_it_says_what_to_do() {
        let config =
            PubsubConfig { endpoint: Some("http://127.0.0.1:1".to_owned()), ..PubsubConfig::default() };
        let refused = Clients::new(&config).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Config);
        assert!(refused.to_string().contains("CryptoProvider::install_default"), "{refused}");
    }
}
