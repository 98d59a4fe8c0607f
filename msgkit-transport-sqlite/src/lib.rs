//! msgkit-transport-sqlite
