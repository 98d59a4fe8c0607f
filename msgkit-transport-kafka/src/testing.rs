//! What the tests within this crate share.

use msgkit::envelope::Clock;
use msgkit::transport::TransportUrl;
use rdkafka::client::ClientContext;
use rdkafka::mocking::MockCluster;

use crate::{Kafka, KafkaConfig};

/// A transport on the cluster that the client library imitates within the process.
pub(crate) fn kafka(mock: &MockCluster<'_, impl ClientContext>, config: KafkaConfig) -> Kafka {
    let url = TransportUrl::parse(&format!("kafka://{}", mock.bootstrap_servers())).unwrap();
    Kafka::with(&url, config, Clock::system()).unwrap()
}
