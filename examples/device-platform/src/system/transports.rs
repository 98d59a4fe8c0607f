//! The transports of this process, and what configuration says of them and of the handlers.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use msgkit::config::{Settings as Configuration, nearest};
use msgkit::memory::Memory;
use msgkit::transport::Transport;
use msgkit::{Registry, Service};

use crate::settings::{Component, Run};

/// The schemes of brokers, which only a program with the feature beside them knows.
const BROKERS: [(&str, &[&str]); 4] = [
    ("brokers", &["mqtt", "mqtts", "mqtt+ws", "mqtt+wss", "amqp", "amqps"]),
    ("kafka", &["kafka", "kafkas"]),
    ("kinesis", &["mqtt", "mqtts", "mqtt+ws", "mqtt+wss", "kinesis"]),
    ("pubsub", &["pubsub"]),
];

/// The transports, under their names, and how topics are spread over them.
#[derive(Debug, Clone)]
pub(super) struct Transports {
    pub(super) all: Vec<(String, Arc<dyn Transport>)>,
    pub(super) configuration: Option<Configuration>,
}

/// The transports that this program knows.
fn registry() -> Registry {
    let registry = Registry::new().with(msgkit_transport_sqlite::scheme());
    #[cfg(feature = "brokers")]
    let registry = registry.with(msgkit_transport_amqp::scheme());
    #[cfg(feature = "kafka")]
    let registry = registry.with(msgkit_transport_kafka::scheme());
    #[cfg(feature = "kinesis")]
    let registry = registry.with(msgkit_transport_kinesis::scheme());
    #[cfg(any(feature = "brokers", feature = "kinesis"))]
    let registry = registry.with(msgkit_transport_mqtt::scheme());
    #[cfg(feature = "pubsub")]
    let registry = registry.with(msgkit_transport_pubsub::scheme());
    registry
}

/// The feature that this program wants for schemes which it does not know: the one that has them all, where there is one.
fn feature_for(missing: &[&str]) -> Option<&'static str> {
    let with = |wanted: &[&str]| {
        let all = |schemes: &[&str]| wanted.iter().all(|scheme| schemes.contains(scheme));
        BROKERS.iter().find(|(_, schemes)| all(schemes)).map(|(feature, _)| *feature)
    };
    with(missing).or_else(|| with(missing.get(..1)?))
}

impl Transports {
    pub(super) fn of(run: &Run) -> anyhow::Result<Self> {
        let registry = registry();
        if let Some(file) = &run.config {
            let configuration = Configuration::load(file)?;
            return Self::configured(file, configuration, &registry);
        }
        let one: Arc<dyn Transport> = match &run.data {
            Some(folder) => {
                make_folder(folder)?;
                registry.open(&format!("sqlite:{}", folder.join("messages.db").display()))?
            }
            None => Arc::new(Memory::new()),
        };
        Ok(Self { all: vec![("main".to_owned(), one)], configuration: None })
    }

    fn configured(file: &Path, configuration: Configuration, registry: &Registry) -> anyhow::Result<Self> {
        let file = file.display();
        let lacking: Vec<_> = configuration
            .transports
            .iter()
            .map(|transport| (&transport.name, transport.url.scheme()))
            .filter(|(_, scheme)| registry.schemes().all(|known| known != *scheme))
            .filter(|(_, scheme)| feature_for(&[scheme]).is_some())
            .collect();
        let schemes: Vec<_> = lacking.iter().map(|(_, scheme)| *scheme).collect();
        if let (Some((name, scheme)), Some(feature)) = (lacking.first(), feature_for(&schemes)) {
            anyhow::bail!(
                "{file}: [transports.{name}] has the scheme `{scheme}`, which this program was built without; build it with \
                 `cargo run -p device-platform --features {feature}`"
            );
        }
        let mut all = Vec::new();
        for transport in &configuration.transports {
            all.push((transport.name.to_string(), transport.build(registry)?));
        }
        anyhow::ensure!(!all.is_empty(), "{file} names no transport; add `[transports.<name>]`");
        // A component looks only at its own handlers, so nobody would miss what is nobody's.
        let known = || Component::ALL.into_iter().flat_map(Component::handlers).copied();
        for handler in configuration.handlers.keys() {
            if !known().any(|name| name == handler.as_str()) {
                let hint = nearest(handler, known()).map_or_else(
                    || format!("there are {}", known().collect::<Vec<_>>().join(", ")),
                    |near| format!("did you mean `{near}`?"),
                );
                anyhow::bail!(
                    "{file}: `[handlers.{handler}]` configures a handler that does not exist; {hint}"
                );
            }
        }
        Ok(Self { all, configuration: Some(configuration) })
    }

    /// A service of a component on these transports; policies and routes are the configuration's.
    pub(super) fn service(&self, component: Component) -> anyhow::Result<Service> {
        let name = component.as_str().rsplit('.').next().unwrap_or_default();
        let mut service = match &self.configuration {
            None => Service::new(name.to_owned()),
            Some(configuration) => {
                let mut own = configuration.clone();
                own.name = name.into();
                own.transports.clear();
                own.handlers.retain(|handler, _| component.handlers().contains(&handler.as_str()));
                let dead_letters: Vec<_> = configuration
                    .transports
                    .iter()
                    .filter_map(|transport| Some((transport.name.clone(), transport.dead_letters.clone()?)))
                    .collect();
                let service = Service::from_settings(own, &Registry::new())?;
                dead_letters.into_iter().fold(service, |service, (of, at)| service.dead_letters(of, at))
            }
        };
        for (name, transport) in &self.all {
            service = service.share(name.clone(), transport.clone());
        }
        Ok(service)
    }
}

/// Makes the directory of `--data` where it is not there yet.
pub(super) fn make_folder(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("--data {} cannot be made a directory", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(text: &str, registry: &Registry) -> Result<Transports, String> {
        let file = Path::new("mqtt-amqp.toml");
        let configuration =
            Configuration::parse(text, "mqtt-amqp.toml", []).map_err(|error| error.to_string())?;
        Transports::configured(file, configuration, registry).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn without_the_feature_a_broker_s_configuration_names_it() {
        let brokers = (include_str!("../../config/mqtt-amqp.toml"), "brokers", cfg!(feature = "brokers"));
        let kafka = (include_str!("../../config/kafka.toml"), "kafka", cfg!(feature = "kafka"));
        let kinesis = (include_str!("../../config/mqtt-kinesis.toml"), "kinesis", cfg!(feature = "kinesis"));
        let pubsub = (include_str!("../../config/pubsub.toml"), "pubsub", cfg!(feature = "pubsub"));
        for (text, feature, built) in [brokers, kafka, kinesis, pubsub] {
            // As the program is without the feature, whether this test has it or not.
            let error = configured(text, &Registry::new()).unwrap_err();
            let fix = format!("--features {feature}");
            assert!(error.contains("has the scheme `") && error.contains(&fix), "{error}");
            assert_eq!(configured(text, &registry()).is_ok(), built);
        }
    }
}
