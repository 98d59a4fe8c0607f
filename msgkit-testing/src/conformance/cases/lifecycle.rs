//! To come.
use crate::conformance::Case;
pub(super) const CASES: &[Case] = &[];
