//! msgkit
