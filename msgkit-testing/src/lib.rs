//! msgkit-testing
