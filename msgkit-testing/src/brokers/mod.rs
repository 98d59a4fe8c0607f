//! Real brokers for tests, each a child process on free loopback ports with a temporary directory.
//!
//! - [`Mosquitto`], [`RabbitMq`] and [`Kafka`] start, stop, restart on the same ports and data, and die by SIGKILL. Dropping one
//!   ends its processes and removes its directory; so does the end of the test's own process, whatever ended it.
//! - The environment variable `MSGKIT_MOSQUITTO_URL`, `MSGKIT_RABBITMQ_URL` or `MSGKIT_KAFKA_URL` names a broker that runs already. It is
//!   used in place of one of our own, and is never stopped.
//! - [`KinesisLocal`] is a stand-in for Amazon Kinesis; [`KinesisFaults`] before it throttles and refuses as the service does.
//!   [`Dynalite`] is one for Amazon DynamoDB.
//! - [`Pubsub`] is Google's `pstest`, or Google's own emulator, in place of Google Cloud Pub/Sub.
//! - One broker serves a whole test binary: [`Mosquitto::shared`], [`RabbitMq::shared`], [`Kafka::shared`]. Each test has a name space of
//!   its own in it: [`Mosquitto::prefix`], [`RabbitMq::vhost`], [`Kafka::prefix`].
//! - A broker that is not installed is a [`BrokerError`] of the kind [`Missing`](BrokerErrorKind::Missing), which becomes
//!   the suite's [`NotRun`](crate::conformance::NotRun) with `?`. `make brokers` installs them all.
//! - `Authority` signs certificates for servers and clients, expired ones too (feature `certificates`).
//! - [`FaultProxy`] stands between a client and any broker and breaks their connections on command.
//!
//! Everything here but the proxy blocks its thread: a broker takes milliseconds (Mosquitto) to seconds (RabbitMQ, Kafka) to
//! come up. It needs a Unix with `sh`.
//!
//! ```no_run
//! use msgkit_testing::brokers::{BrokerError, Mosquitto};
//!
//! fn main() -> Result<(), BrokerError> {
//!     let mut broker = Mosquitto::start()?;
//!     println!("a broker of our own on {}", broker.url());
//!     broker.kill()?; // SIGKILL
//!     broker.restart()?; // the same port, the same data
//!     Ok(())
//! }
//! ```

#[cfg(feature = "certificates")]
mod authority;
mod certificates;
mod dynalite;
mod error;
mod http;
mod kafka;
mod kafka_acls;
mod kinesis;
mod kinesis_faults;
mod mosquitto;
mod npm;
mod place;
mod proxy;
mod pubsub;
mod rabbitmq;
mod sandbox;
mod system;

#[cfg(feature = "certificates")]
pub use self::authority::{Authority, Signed};
pub use self::dynalite::{Dynalite, DynamoDb};
pub use self::error::{BrokerError, BrokerErrorKind};
pub use self::kafka::{Kafka, KafkaOptions};
pub use self::kafka_acls::Denied;
pub use self::kinesis::{KinesisLocal, KinesisStreams};
pub use self::kinesis_faults::{Call, HangUp, KinesisFaults};
pub use self::mosquitto::{Mosquitto, MosquittoOptions};
pub use self::npm::{StandIn, StandsFor};
pub use self::proxy::{Connection, Direction, FaultProxy};
pub use self::pubsub::Pubsub;
pub use self::rabbitmq::{RabbitMq, VirtualHost};
