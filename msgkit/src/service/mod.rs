//! stub
mod publish;
pub use self::publish::PublishHandle;
/// stub
#[derive(Debug)]
pub struct Service;
