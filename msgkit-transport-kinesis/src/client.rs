//! Who we are and where the services are: credentials, region, addresses, patience.

use std::fmt;
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region, SharedCredentialsProvider};
use msgkit::transport::{TransportError, TransportUrl};
use msgkit::{Error, ErrorKind};
use tokio::sync::OnceCell;

use crate::config::{KinesisConfig, Secret};

/// How long connecting, and one call, may take.
pub(crate) const CONNECT: Duration = Duration::from_secs(5);
pub(crate) const CALL: Duration = Duration::from_secs(30);

/// An account of AWS, as far as it is known before the first use.
pub(crate) struct Account {
    /// `None` = as AWS tools find it.
    region: Option<String>,
    endpoint: Option<String>,
    #[cfg(feature = "dynamodb")]
    leases_endpoint: Option<String>,
    profile: Option<String>,
    /// `None` = as AWS tools find them.
    keys: Option<Keys>,
    access: OnceCell<Access>,
    client: OnceCell<Client>,
}

struct Keys {
    id: String,
    secret: Secret,
    token: Option<Secret>,
}

/// What every client of the account is made with.
pub(crate) struct Access {
    pub(crate) region: Region,
    pub(crate) credentials: SharedCredentialsProvider,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("region", &self.region)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn refuse<T>(text: impl Into<String>) -> Result<T, Error> {
    Err(Error::new(ErrorKind::Config, text.into()))
}

impl Account {
    /// By the options, the URL and the environment, in this order; `region` is empty where the URL names none.
    pub(crate) fn new(url: &TransportUrl, region: String, config: &KinesisConfig) -> Result<Self, Error> {
        let address = |option: &Option<String>, variable: &str| {
            option.clone().or_else(|| env(variable)).or_else(|| env("AWS_ENDPOINT_URL"))
        };
        let endpoint = address(&config.endpoint, "AWS_ENDPOINT_URL_KINESIS");
        let leases_endpoint = address(&config.leases_endpoint, "AWS_ENDPOINT_URL_DYNAMODB");
        for (name, address) in [("endpoint", &endpoint), ("leases_endpoint", &leases_endpoint)] {
            if let Some(address) = address
                && !(address.starts_with("http://") || address.starts_with("https://"))
            {
                return refuse(format!(
                    "`{name}` of a Kinesis transport must begin with `http://` or `https://`"
                ));
            }
        }
        let keys = keys(url, config, endpoint.as_deref())?;
        if keys.is_none() && !cfg!(feature = "aws-config") {
            return refuse(
                "a Kinesis transport has no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or its options \
                 `access_key_id` and `secret_access_key`, or build it with the feature `aws-config`, which finds them as \
                 every AWS tool does",
            );
        }
        // A profile has a region of its own, which `aws-config` reads; the environment is before it, as for every AWS tool.
        let region = Some(region)
            .filter(|region| !region.is_empty())
            .or_else(|| env("AWS_REGION"))
            .or_else(|| env("AWS_DEFAULT_REGION"));
        if region.is_none() && !cfg!(feature = "aws-config") {
            return refuse(
                "the url of a Kinesis transport names no region, and neither does AWS_REGION; write \
                 `kinesis://eu-west-1/name-of-the-system`",
            );
        }
        Ok(Self {
            region,
            endpoint,
            #[cfg(feature = "dynamodb")]
            leases_endpoint,
            profile: config.profile.clone(),
            keys,
            access: OnceCell::new(),
            client: OnceCell::new(),
        })
    }

    /// What is said of the region where it is named in an error.
    pub(crate) fn region(&self) -> &str {
        self.region.as_deref().unwrap_or("the region of the profile")
    }

    pub(crate) fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    #[cfg(feature = "dynamodb")]
    pub(crate) fn leases_endpoint(&self) -> Option<&str> {
        self.leases_endpoint.as_deref()
    }

    /// The region and the credentials; where they have to be looked for, at the first use.
    pub(crate) async fn access(&self) -> Result<&Access, TransportError> {
        self.access
            .get_or_try_init(|| async {
                let credentials = self.keys.as_ref().map(|keys| {
                    let token = keys.token.as_ref().map(|token| token.reveal().to_owned());
                    let keys = Credentials::new(keys.id.clone(), keys.secret.reveal(), token, None, "msgkit");
                    SharedCredentialsProvider::new(keys)
                });
                match (&self.region, credentials) {
                    (Some(region), Some(credentials)) => {
                        Ok(Access { region: Region::new(region.clone()), credentials })
                    }
                    (region, credentials) => {
                        found::access(region.clone(), credentials, self.profile.as_deref()).await
                    }
                }
            })
            .await
    }

    /// The client, made at the first use.
    pub(crate) async fn client(&self) -> Result<&Client, TransportError> {
        self.client
            .get_or_try_init(|| async {
                let access = self.access().await?;
                let builder = aws_sdk_kinesis::Config::builder()
                    .behavior_version(BehaviorVersion::latest())
                    .region(access.region.clone())
                    .credentials_provider(access.credentials.clone())
                    // Whoever calls knows better what to try again: one record, one shard, nothing.
                    .retry_config(RetryConfig::disabled())
                    .timeout_config(
                        TimeoutConfig::builder()
                            .connect_timeout(CONNECT)
                            .operation_attempt_timeout(CALL)
                            .build(),
                    );
                let builder = match &self.endpoint {
                    Some(endpoint) => builder.endpoint_url(endpoint),
                    None => builder,
                };
                Ok(Client::from_conf(builder.build()))
            })
            .await
    }
}

/// The access key that is given; without, and with a profile, AWS's own ways are gone.
fn keys(url: &TransportUrl, config: &KinesisConfig, endpoint: Option<&str>) -> Result<Option<Keys>, Error> {
    let given = match (&config.access_key_id, &config.secret_access_key) {
        (Some(id), Some(secret)) => {
            Some(Keys { id: id.clone(), secret: secret.clone(), token: config.session_token.clone() })
        }
        _ => url.user().zip(url.password()).map(|(id, secret)| Keys {
            id: id.to_owned(),
            secret: Secret::new(secret),
            token: config.session_token.clone(),
        }),
    };
    match (&config.profile, given) {
        (Some(profile), Some(_)) => refuse(format!(
            "a Kinesis transport has both an access key and `profile = \"{profile:.60}\"`; leave one of them out"
        )),
        (Some(_), None) if !cfg!(feature = "aws-config") => refuse(
            "`profile` of a Kinesis transport needs the feature `aws-config` of msgkit-transport-kinesis; add it in Cargo.toml",
        ),
        (Some(_), None) => Ok(None),
        (None, Some(keys)) => Ok(Some(keys)),
        (None, None) => Ok(match (env("AWS_ACCESS_KEY_ID"), env("AWS_SECRET_ACCESS_KEY")) {
            (Some(id), Some(secret)) => {
                let token =
                    config.session_token.clone().or_else(|| env("AWS_SESSION_TOKEN").map(Secret::new));
                Some(Keys { id, secret: Secret::new(secret), token })
            }
            // A stand-in on this machine asks for a signature, and does not look at it.
            _ if endpoint.is_some_and(is_loopback) => {
                Some(Keys { id: "000000000000".to_owned(), secret: Secret::new("none"), token: None })
            }
            _ => None,
        }),
    }
}

fn is_loopback(endpoint: &str) -> bool {
    let host = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    ["127.", "localhost", "[::1]"].iter().any(|own| host.starts_with(own))
}

/// Region and credentials as every AWS tool finds them.
#[cfg(feature = "aws-config")]
mod found {
    use aws_config::profile::ProfileFileCredentialsProvider;
    use aws_credential_types::provider::error::CredentialsError;
    use aws_sdk_kinesis::config::{
        BehaviorVersion, ProvideCredentials as _, Region, SharedCredentialsProvider,
    };
    use msgkit::transport::{TransportError, TransportErrorKind};

    use super::Access;

    pub(super) async fn access(
        region: Option<String>,
        credentials: Option<SharedCredentialsProvider>,
        profile: Option<&str>,
    ) -> Result<Access, TransportError> {
        let refused = |text: String| TransportError::new(TransportErrorKind::Refused, text);
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Some(region) = region {
            loader = loader.region(Region::new(region));
        }
        if let Some(profile) = profile {
            loader = loader.profile_name(profile);
        }
        loader = match (credentials, profile) {
            (Some(credentials), _) => loader.credentials_provider(credentials),
            // One that is asked for by name is before what the environment says.
            (None, Some(profile)) => loader.credentials_provider(
                ProfileFileCredentialsProvider::builder().profile_name(profile).build(),
            ),
            (None, None) => loader,
        };
        let loaded = loader.load().await;
        let place = profile.map_or_else(|| "the environment".to_owned(), |name| format!("profile `{name}`"));
        let Some(region) = loaded.region().cloned() else {
            return Err(refused(format!(
                "no AWS region was found for {place}; write it into the url (`kinesis://eu-west-1/…`), or set AWS_REGION"
            )));
        };
        let Some(credentials) = loaded.credentials_provider() else {
            return Err(refused(format!("no AWS credentials were found for {place}")));
        };
        // Asked for at once, so that wrong ones are told before anything waits for them.
        match credentials.provide_credentials().await {
            Ok(_) => Ok(Access { region, credentials }),
            Err(error @ (CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_))) => {
                Err(refused(format!(
                    "no AWS credentials were found for {place}; look at the option `profile`, the files in `~/.aws`, or the \
                     role of this machine"
                ))
                .with_source(error))
            }
            Err(error) => Err(TransportError::new(
                TransportErrorKind::Unavailable,
                format!("the AWS credentials of {place} cannot be had now"),
            )
            .with_source(error)),
        }
    }
}

#[cfg(not(feature = "aws-config"))]
mod found {
    use aws_sdk_kinesis::config::SharedCredentialsProvider;
    use msgkit::transport::{TransportError, TransportErrorKind};

    use super::Access;

    /// Never reached: without the feature everything is known, or refused, before.
    #[allow(clippy::unused_async)]
    pub(super) async fn access(
        _: Option<String>,
        _: Option<SharedCredentialsProvider>,
        _: Option<&str>,
    ) -> Result<Access, TransportError> {
        Err(TransportError::new(TransportErrorKind::Refused, "no AWS credentials were given"))
    }
}
