//! What a RabbitMQ does to those who use it: it refuses, restarts, dies, and closes channels.

mod broker {
    mod alarm;
    mod bench;
    mod frames;
    mod looking;
    mod publishing;
    mod registry;
    mod repair;
}
