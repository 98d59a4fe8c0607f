//! stub
use crate::Error;
use crate::transport::{Factory, Options, Transport, TransportUrl};
use std::sync::Arc;
/// stub
#[must_use]
pub fn scheme() -> impl Factory {
    Scheme
}
struct Scheme;
impl Factory for Scheme {
    fn schemes(&self) -> &'static [&'static str] {
        &["memory"]
    }
    fn build(&self, _url: &TransportUrl, _options: Options) -> Result<Arc<dyn Transport>, Error> {
        Err(Error::config("stub"))
    }
}
