//! msgkit-macros
