//! Where a case failed, without a backtrace for every handler that panics on purpose.

use std::cell::RefCell;
use std::panic;

thread_local! {
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on a panic prints nothing, and its place is kept for [`place`]. With `MSGKIT_PANICS=1` they print as ever.
pub(super) fn keep_places() {
    if std::env::var("MSGKIT_PANICS").is_ok_and(|value| value == "1") {
        return;
    }
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(|place| format!(" ({}:{})", place.file(), place.line()));
        LAST.with_borrow_mut(|last| *last = place);
    }));
}

/// Where this thread panicked last, in brackets.
pub(super) fn place() -> String {
    LAST.with_borrow_mut(Option::take).unwrap_or_default()
}
