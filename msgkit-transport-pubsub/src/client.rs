//! Where the service is and who we are there: the clients of the transport, made with their first use.

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
    publisher: OnceCell<BasePublisher>,
    subscriber: OnceCell<Subscriber>,
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
                let Ok(key) = serde_json::from_str(&text) else {
                    return refuse(format!(
                        "the `credentials_file` {} of a Pub/Sub transport is no JSON; it should be the key of a service account",
                        file.display()
                    ));
                };
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
            publisher: OnceCell::new(),
            subscriber: OnceCell::new(),
        })
    }

    fn credentials(&self) -> Result<Credentials, TransportError> {
        if self.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://")) {
            return Ok(credentials::anonymous::Builder::new().build());
        }
        let (made, hint) = match &self.credentials {
            Some(Key(key)) => (
                credentials::service_account::Builder::new(key.clone()).build(),
                "look at `credentials_file`, which should be the key of a service account",
            ),
            None => (
                credentials::Builder::default().build(),
                "set GOOGLE_APPLICATION_CREDENTIALS or `credentials_file`, or run `gcloud auth application-default login`",
            ),
        };
        made.map_err(|error| {
            let text = format!("there are no credentials for Pub/Sub; {hint}");
            TransportError::new(TransportErrorKind::Refused, text).with_source(error)
        })
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

    pub(crate) async fn publisher(&self) -> Result<&BasePublisher, TransportError> {
        let make = || async {
            let mut builder = BasePublisher::builder()
                .with_credentials(self.credentials()?)
                .with_retry_policy(RetryableErrors.with_time_limit(self.publish_timeout));
            if let Some(endpoint) = &self.endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            builder.build().await.map_err(made)
        };
        self.publisher.get_or_try_init(make).await
    }

    pub(crate) async fn subscriber(&self) -> Result<&Subscriber, TransportError> {
        let make = || async {
            let mut builder = Subscriber::builder().with_credentials(self.credentials()?);
            if let Some(endpoint) = &self.endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            builder.build().await.map_err(made)
        };
        self.subscriber.get_or_try_init(make).await
    }
}

/// A client that could not be made: its options cannot be.
fn made(error: impl std::error::Error + Send + Sync + 'static) -> TransportError {
    TransportError::new(TransportErrorKind::Refused, "making a client of Pub/Sub failed; look at `endpoint`")
        .with_source(error)
}
