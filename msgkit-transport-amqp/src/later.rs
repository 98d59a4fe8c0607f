//! Messages that are published for later: kept by the broker until they are due, then routed like all others.
//!
//! A queue can keep its messages for one length of time only, for what is behind a message that waits longer is held up
//! by it. So a delay is written in hexadecimal digits, and there is a queue per digit and place: a message due in 0x2a0
//! milliseconds waits for 0x200 in one queue and for 0xa0 in the next. The digits travel as headers; an exchange per
//! place sends a message to the queue of its digit, or on to the next place where the digit is 0; behind the last place
//! is the topic exchange. The routing key is the topic all the way.

use std::collections::BTreeMap;
use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

/// The places of digits: 2^32 milliseconds are 49 days. What is due later comes back and is sent on by the core. The
/// lowest digit is always 0: passing a queue takes milliseconds.
const PLACES: std::ops::Range<u32> = LOWEST..8;
/// The lowest place.
pub(crate) const LOWEST: u32 = 1;
/// How many digits of a delay are kept, so that a message passes few queues; it comes later by 1/4096 at most, or 16 ms.
const SIGNIFICANT: u32 = 4;
/// What stands before a place in the name of the header with its digit.
pub(crate) const HEADER: &str = "msgkit-later-";

/// A delay in digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Later(u32);

impl Later {
    /// The delay of a message that is due in `rest`, never shorter than that unless it is longer than 49 days.
    pub(crate) fn after(rest: Duration) -> Self {
        let millis = u64::try_from(rest.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).max(1);
        let digits = millis.ilog2() / 4 + 1;
        let unit = 1_u64 << (4 * digits.saturating_sub(SIGNIFICANT).max(LOWEST));
        Self(u32::try_from(millis.div_ceil(unit).saturating_mul(unit)).unwrap_or(!0xf))
    }

    /// The highest place with a digit.
    pub(crate) fn top(self) -> u32 {
        self.0.checked_ilog2().unwrap_or(0) / 4
    }

    /// The places with digits, and those, highest first.
    pub(crate) fn digits(self) -> impl Iterator<Item = (u32, u32)> {
        PLACES.rev().map(move |place| (place, self.digit(place))).filter(|(_, digit)| *digit > 0)
    }

    fn digit(self, place: u32) -> u32 {
        (self.0 >> (4 * place)) & 0xf
    }

    /// The same properties with the digits among the headers.
    pub(crate) fn mark(self, properties: BasicProperties) -> BasicProperties {
        let mut headers: BTreeMap<ShortString, AMQPValue> =
            properties.headers().as_ref().map(|headers| headers.inner().clone()).unwrap_or_default();
        for place in PLACES {
            headers.insert(header(place), digit_value(self.digit(place)));
        }
        properties.with_headers(FieldTable::from(headers))
    }
}

/// How long the queue of `digit` at `place` keeps a message.
pub(crate) fn millis(place: u32, digit: u32) -> u64 {
    u64::from(digit) << (4 * place)
}

/// What a message must have among its headers for `digit` at `place`.
pub(crate) fn wanted(place: u32, digit: u32) -> FieldTable {
    let entries = [
        (ShortString::from("x-match"), AMQPValue::LongString("all".into())),
        (header(place), digit_value(digit)),
    ];
    FieldTable::from(BTreeMap::from(entries))
}

fn header(place: u32) -> ShortString {
    ShortString::from(format!("{HEADER}{place}"))
}

fn digit_value(digit: u32) -> AMQPValue {
    AMQPValue::LongString(format!("{digit:x}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(later: Later) -> u64 {
        later.digits().map(|(place, digit)| millis(place, digit)).sum()
    }

    #[test]
    fn digits_sum_up_to_the_delay() {
        assert_eq!(
            Later::after(Duration::from_millis(0x2a0)).digits().collect::<Vec<_>>(),
            [(2, 2), (1, 0xa)]
        );
        let day = 24 * 3600 * 1000;
        for millis in (1..70_000).chain([day, day + 1, 7 * day, 49 * day]) {
            let kept = sum(Later::after(Duration::from_millis(millis)));
            assert!(kept >= millis, "{millis} → {kept}");
            assert!(kept - millis <= (millis / 4096).max(15), "{millis} → {kept}");
        }
    }

    #[test]
    fn few_queues_are_passed() {
        for millis in [1, 0xffff, 0x10_0001, 0xffff_ffff, u64::MAX] {
            assert!(Later::after(Duration::from_millis(millis)).digits().count() <= 8);
        }
        assert!(Later::after(Duration::from_millis(0x1234_5678)).digits().count() <= 4);
        assert_eq!(sum(Later::after(Duration::MAX)), u64::from(u32::MAX) - 15);
        assert_eq!(sum(Later::after(Duration::from_nanos(1))), 16);
    }
}
