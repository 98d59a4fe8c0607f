//! Who may come in.
//!
//! On loopback there is no token, so a web page that the user happens to have open must not be able to use the platform in the user's
//! name: a request that says it comes from another origin is refused, and so is one for a host name that is not this machine's (DNS
//! rebinding). Beyond loopback every request to the interface carries the token.

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use subtle::ConstantTimeEq as _;

use super::{ApiError, Gateway};
use crate::settings::{Listen, Token};

/// The rules for coming in.
#[derive(Debug, Clone)]
pub struct Access {
    listen: Listen,
    token: Option<Token>,
}

impl Access {
    /// For a gateway that listens there. `None` beyond loopback without a token: then anybody could come in.
    #[must_use]
    pub fn new(listen: Listen, token: Option<Token>) -> Option<Self> {
        (listen.is_loopback() || token.is_some()).then_some(Self { listen, token })
    }

    /// Whether the request may be answered at all.
    fn origin(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let host = text(header::HOST).unwrap_or_default();
        if self.token.is_none() && !is_this_machine(host) {
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "foreign_host",
                "without a token the platform answers only to localhost, 127.0.0.1 and [::1]",
            ));
        }
        if let Some(origin) = text(header::ORIGIN) {
            let from = origin.split_once("://").map_or(origin, |(_, authority)| authority);
            if !from.eq_ignore_ascii_case(host) {
                return Err(ApiError::new(
                    StatusCode::FORBIDDEN,
                    "foreign_origin",
                    "requests of web pages from other origins are not answered",
                ));
            }
        }
        Ok(())
    }

    /// Whether the request carries the token, where there is one.
    fn token(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(token) = &self.token else { return Ok(()) };
        let refused = |message| Err(ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message));
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return refused("send the header `Authorization: Bearer <token>`");
        };
        let (scheme, given) = match value.as_bytes().split_at_checked(7) {
            Some(parts) => parts,
            None => return refused("the header `Authorization` is not `Bearer <token>`"),
        };
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return refused("the header `Authorization` is not `Bearer <token>`");
        }
        // In constant time: how much of a guess is right must not show in how long the answer takes.
        if bool::from(given.ct_eq(token.reveal().as_bytes())) {
            Ok(())
        } else {
            refused("the token is wrong")
        }
    }

    /// Where the gateway listens.
    #[must_use]
    pub fn listen(&self) -> Listen {
        self.listen
    }
}

fn is_this_machine(host: &str) -> bool {
    let Ok(host) = host.parse::<Authority>() else { return false };
    let host = host.host().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// Lets requests of this origin pass.
pub(super) async fn require_origin(
    State(gateway): State<Gateway>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    gateway.access.origin(request.headers())?;
    Ok(next.run(request).await)
}

/// Lets requests with the token pass.
pub(super) async fn require_token(
    State(gateway): State<Gateway>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    gateway.access.token(request.headers())?;
    Ok(next.run(request).await)
}
