//! The client of the service: credentials, address, patience.

use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use msgkit::transport::{TransportError, TransportErrorKind, TransportUrl};
use msgkit::{Error, ErrorKind};
use tokio::sync::OnceCell;

use crate::config::{KinesisConfig, Secret};

/// How long connecting, and one call, may take.
const CONNECT: Duration = Duration::from_secs(5);
const CALL: Duration = Duration::from_secs(30);

/// Where the service is, and who we are there.
#[derive(Debug)]
pub(crate) struct Account {
    region: String,
    endpoint: Option<String>,
    keys: Option<Keys>,
    client: OnceCell<Client>,
}

#[derive(Debug, Clone)]
struct Keys {
    id: String,
    secret: Secret,
    token: Option<Secret>,
}

impl Account {
    /// By the options, the URL and the environment, in this order.
    pub(crate) fn new(url: &TransportUrl, region: String, config: &KinesisConfig) -> Result<Self, Error> {
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint = config
            .endpoint
            .clone()
            .or_else(|| env("AWS_ENDPOINT_URL_KINESIS"))
            .or_else(|| env("AWS_ENDPOINT_URL"));
        if let Some(endpoint) = &endpoint
            && !(endpoint.starts_with("http://") || endpoint.starts_with("https://"))
        {
            return Err(Error::new(
                ErrorKind::Config,
                "`endpoint` of a Kinesis transport must begin with `http://` or `https://`",
            ));
        }
        let token = || config.session_token.clone().or_else(|| env("AWS_SESSION_TOKEN").map(Secret::new));
        let keys = match (&config.access_key_id, &config.secret_access_key) {
            (Some(id), Some(secret)) => {
                Some(Keys { id: id.clone(), secret: secret.clone(), token: config.session_token.clone() })
            }
            _ => match (url.user(), url.password()) {
                (Some(id), Some(secret)) => Some(Keys {
                    id: id.to_owned(),
                    secret: Secret::new(secret),
                    token: config.session_token.clone(),
                }),
                _ => match (env("AWS_ACCESS_KEY_ID"), env("AWS_SECRET_ACCESS_KEY")) {
                    (Some(id), Some(secret)) => {
                        Some(Keys { id, secret: Secret::new(secret), token: token() })
                    }
                    // A stand-in on this machine asks for a signature, and does not look at it.
                    _ if endpoint.as_deref().is_some_and(is_loopback) => {
                        Some(Keys { id: "000000000000".to_owned(), secret: Secret::new("none"), token: None })
                    }
                    _ => None,
                },
            },
        };
        if keys.is_none() && !cfg!(feature = "aws-config") {
            return Err(Error::new(
                ErrorKind::Config,
                "a Kinesis transport has no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or its options \
                 `access_key_id` and `secret_access_key`, or build it with the feature `aws-config`, which finds them as \
                 every AWS tool does",
            ));
        }
        Ok(Self { region, endpoint, keys, client: OnceCell::new() })
    }

    pub(crate) fn region(&self) -> &str {
        &self.region
    }

    pub(crate) fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    /// The access key, where one is given; without, `aws-config` looks for it.
    pub(crate) fn credentials(&self) -> Option<Credentials> {
        let keys = self.keys.as_ref()?;
        let token = keys.token.as_ref().map(|token| token.reveal().to_owned());
        Some(Credentials::new(keys.id.clone(), keys.secret.reveal(), token, None, "msgkit"))
    }

    /// The client, made at the first use.
    pub(crate) async fn client(&self) -> Result<&Client, TransportError> {
        self.client
            .get_or_try_init(|| async {
                let builder = aws_sdk_kinesis::Config::builder()
                    .behavior_version(BehaviorVersion::latest())
                    .region(Region::new(self.region.clone()))
                    // Whoever calls knows better what to try again: one record, one shard, nothing.
                    .retry_config(RetryConfig::disabled())
                    .timeout_config(
                        TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(CALL).build(),
                    );
                let builder = match &self.endpoint {
                    Some(endpoint) => builder.endpoint_url(endpoint),
                    None => builder,
                };
                let builder = match self.credentials() {
                    Some(credentials) => builder.credentials_provider(credentials),
                    None => match found(&self.region).await {
                        Some(provider) => builder.credentials_provider(provider),
                        None => {
                            return Err(TransportError::new(
                                TransportErrorKind::Refused,
                                "no AWS credentials were found; look at the profile, or at the role of this machine",
                            ));
                        }
                    },
                };
                Ok(Client::from_conf(builder.build()))
            })
            .await
    }
}

/// The credentials that every AWS tool would find.
#[cfg(feature = "aws-config")]
pub(crate) async fn found(region: &str) -> Option<aws_sdk_kinesis::config::SharedCredentialsProvider> {
    let region = Region::new(region.to_owned());
    aws_config::defaults(BehaviorVersion::latest()).region(region).load().await.credentials_provider()
}

#[cfg(not(feature = "aws-config"))]
#[allow(clippy::unused_async)]
pub(crate) async fn found(_: &str) -> Option<aws_sdk_kinesis::config::SharedCredentialsProvider> {
    None
}

fn is_loopback(endpoint: &str) -> bool {
    let host = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    ["127.", "localhost", "[::1]"].iter().any(|own| host.starts_with(own))
}
