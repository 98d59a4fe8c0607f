//! What the suite cannot see: members that join, leave and are killed while handlers run, a broker that dies, what others
//! write, what is refused. On a real Kafka; without one the tests say so, or fail where `MSGKIT_REQUIRE_BROKERS` is 1.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod live {
    mod acls;
    pub(crate) mod bench;
    mod broker;
    mod kcat;
    mod letters;
    mod members;
    mod others;
    mod refusals;
    mod remade;
    mod scale;
    mod sizes;
    mod statics;
    #[cfg(any(feature = "tls", feature = "tls-system"))]
    mod tls;
    mod unfit;
}
mod support;
