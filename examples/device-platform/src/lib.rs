//! A device platform of six components that talk by messages only, on real sensor data.
//!
//! A component is a module here and a dotted name in the catalog. Data flows down this list:
//!
//! | module | component | does |
//! |---|---|---|
//! | [`device_hw`] | `device.hw` | replays measurements of a real office as three devices |
//! | [`api_gateway`] | `service_platform.api_gateway` | takes readings over HTTP, answers queries, serves the dashboard |
//! | [`processing`] | `service_platform.container.processing` | validates, adds the humidity ratio, aggregates |
//! | [`event_rule`] | `service_platform.core.event_rule` | raises and clears alerts |
//! | [`data_api`] | `data_core.data_api` | keeps readings, aggregates, alerts and traces in SQLite |
//! | [`notification`] | `service_platform.notification` | streams what happens to browsers |
//!
//! What the modules share is the language they talk in: [`messages`]. [`system`] puts the chosen ones together and runs them. Each module keeps its decisions in plain functions and values
//! (no broker, no clock, no global state), so that a message handler is a few lines and a unit test is a function call.

pub mod api_gateway;
pub mod data_api;
pub mod device_hw;
pub mod event_rule;
pub mod messages;
pub mod notification;
pub mod processing;
pub mod settings;
pub mod system;
