//! The part of a run that counts.

use std::hint::black_box;

/// Runs `body` in the one frame that callgrind collects in (`--toggle-collect=*measured_region*`).
///
/// It takes a `dyn` closure and is never inlined, because the toggle goes by function names: a generic parameter would
/// put this name into the names of other functions, and each of those would toggle too. The `black_box` after the call
/// keeps the call from becoming a jump, which would leave this frame before the body runs.
#[inline(never)]
pub fn measured_region(body: &mut dyn FnMut()) {
    body();
    black_box(());
}
