//! What a refusal looks like, whatever was refused.

use std::error::Error;

use msgkit::Chain;

/// The longest text of a refusal, all causes included: one line of a log, one answer of an API.
const LONGEST: usize = 4096;

/// Panics where the text is too long, and gives it back.
pub(crate) fn check(error: &(dyn Error + 'static)) -> String {
    let text = Chain(error).to_string();
    assert!(!text.is_empty(), "a refusal says nothing");
    assert!(text.len() < LONGEST, "a refusal of {} bytes: {text:.200}…", text.len());
    text
}
