//! The dashboard's files, part of the program.

use axum::extract::Path;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{Html, IntoResponse};

use super::ApiError;

/// Nothing but the page's own files, and nobody may frame it: what comes from a device cannot become a script.
pub(super) const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    ),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
];

const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

/// Each file of the page: name, type, text.
const FILES: [(&str, &str, &str); 8] = [
    ("icon.svg", "image/svg+xml", include_str!("../../assets/icon.svg")),
    ("dashboard.css", CSS, include_str!("../../assets/dashboard.css")),
    ("main.js", JS, include_str!("../../assets/main.js")),
    ("api.js", JS, include_str!("../../assets/api.js")),
    ("chart.js", JS, include_str!("../../assets/chart.js")),
    ("dom.js", JS, include_str!("../../assets/dom.js")),
    ("lists.js", JS, include_str!("../../assets/lists.js")),
    ("trace.js", JS, include_str!("../../assets/trace.js")),
];

/// `GET /`
pub(super) async fn page() -> impl IntoResponse {
    Html(include_str!("../../assets/index.html"))
}

/// `GET /assets/{file}`
pub(super) async fn asset(Path(name): Path<String>) -> Result<impl IntoResponse, ApiError> {
    let file = FILES.iter().find(|(file, ..)| *file == name);
    let (_, content_type, text) = file.ok_or_else(ApiError::not_found)?;
    Ok(([(header::CONTENT_TYPE, *content_type)], *text))
}
