//! The structured JSON form of an envelope: the bytes are the form.

use msgkit::envelope::structured;

use crate::{envelope, refusal};

/// Panics where a promise does not hold for these bytes.
pub fn check(bytes: &[u8]) {
    // The ids that a message without a trace gets.
    fastrand::seed(1);
    match structured::from_slice(bytes, &envelope::destination()) {
        Ok(read) => envelope::check(&read),
        Err(error) => drop(refusal::check(&error)),
    }
}
