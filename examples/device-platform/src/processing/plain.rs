//! Readings of devices that know nothing of messages.

use jiff::Timestamp;
use msgkit::{Envelope, Topic};
use uuid::Uuid;

use crate::messages::{ReadingMeasured, ReadingReported};

/// The name space of these readings' ids: they are UUIDs of version 5 (RFC 9562, section 5.5) over what the reading says.
const IDS: Uuid = Uuid::from_u128(0x6d73_676b_6974_5f64_8576_6963_655f_6d71);

/// The reading says that it is of another device than its topic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a reading on the topic of device `{topic}` says that it is of device `{payload}`; send it to that device's topic"
)]
pub(super) struct OtherDevice {
    topic: String,
    payload: String,
}

/// The reading under its id, with what the device left to its topic and to the moment of arrival.
///
/// A broker may bring a plain message twice, and nothing of the message tells. Where the device says when it measured, what it says makes
/// the id, and the reading is stored once.
pub(super) fn read(
    measured: ReadingMeasured,
    envelope: &Envelope,
) -> Result<(String, ReadingReported), OtherDevice> {
    let named = envelope.topic().segments().nth(1).and_then(Topic::read_segment).unwrap_or_default();
    if !measured.device_id.is_empty() && measured.device_id != named {
        return Err(OtherDevice { topic: named.into_owned(), payload: measured.device_id });
    }
    let device_id = named.into_owned();
    let ReadingMeasured { temperature, humidity, light, co2, .. } = measured;
    let id = match measured.at {
        Some(at) => {
            let said = format!("{device_id}:{at}:{temperature}:{humidity}:{light}:{co2}");
            Uuid::new_v5(&IDS, said.as_bytes()).to_string()
        }
        None => envelope.id().to_string(),
    };
    let arrived = || envelope.time().and_then(|time| time.to_string().parse().ok()).unwrap_or_default();
    let at: Timestamp = measured.at.unwrap_or_else(arrived);
    // As the gateway does: what is finer than a microsecond is not kept.
    let at = Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at);
    Ok((id, ReadingReported { device_id, temperature, humidity, light, co2, at }))
}

#[cfg(test)]
mod tests {
    use msgkit::Message as _;
    use msgkit::envelope::NativeHeaders;
    use msgkit::envelope::ingest::{Ingest, IngestRule};

    use super::*;

    /// What a device sent, as the ingest rule hands it over.
    fn arrived(topic: &str, payload: &str, time: &str) -> (ReadingMeasured, Envelope) {
        let ingest =
            Ingest(vec![IngestRule::new("device.*.reading".parse().unwrap(), ReadingMeasured::NAME)]);
        let payload = Some(payload.to_owned().into());
        let native = NativeHeaders::default();
        let envelope = ingest
            .envelope("mqtt", &topic.parse().unwrap(), None, payload, native, time.parse().unwrap())
            .unwrap();
        (ReadingMeasured::decode(&envelope).unwrap(), envelope)
    }

    const NOW: &str = "2026-01-01T00:00:00.5Z";
    const PLAIN: &str = r#"{"temperature":21,"humidity":40,"light":300,"co2":600}"#;

    #[test]
    fn topic_and_arrival_say_what_the_device_does_not() {
        let (measured, envelope) = arrived("device.AA~3ABB.reading", PLAIN, NOW);
        let (id, reading) = read(measured, &envelope).unwrap();
        assert_eq!((reading.device_id.as_str(), reading.at.to_string().as_str()), ("AA:BB", NOW));
        assert_eq!((id, reading.co2), (envelope.id().to_string(), 600.0));
    }

    #[test]
    fn a_reading_with_a_time_has_one_id_however_often_it_comes() {
        let timed = PLAIN.replace('}', r#","at":"2026-01-01T00:00:00Z"}"#);
        let id = |topic: &str, time: &str, said: &str| {
            let (measured, envelope) = arrived(topic, said, time);
            let (id, reading) = read(measured, &envelope).unwrap();
            assert_eq!(reading.at.to_string(), "2026-01-01T00:00:00Z");
            id
        };
        let once = id("device.a.reading", NOW, &timed);
        assert_eq!(once, id("device.a.reading", "2026-01-02T00:00:00Z", &timed));
        assert_ne!(once, id("device.b.reading", NOW, &timed));
        assert_ne!(once, id("device.a.reading", NOW, &timed.replace("600", "601")), "two within one second");
    }

    #[test]
    fn a_device_speaks_for_itself_only() {
        let other = PLAIN.replace('{', r#"{"device_id":"b","#);
        let (measured, envelope) = arrived("device.a.reading", &other, NOW);
        assert_eq!(
            read(measured, &envelope).unwrap_err().to_string(),
            "a reading on the topic of device `a` says that it is of device `b`; send it to that device's topic"
        );
        let (measured, envelope) = arrived("device.b.reading", &other, NOW);
        assert_eq!(read(measured, &envelope).unwrap().1.device_id, "b");
    }
}
