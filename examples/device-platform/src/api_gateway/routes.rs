//! Which request is answered by what.

use axum::Json;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use super::metrics::{self, Exposition};
use super::params::{self, Params};
use super::{ApiError, Gateway, access, dashboard, readings};
use crate::messages::{
    AggregateUpdated, AggregatesQuery, AlertsQuery, DeadLetter, DeadLettersQuery, DeviceSeen, DevicesQuery,
    HopRecorded, ReadingsQuery, StoredAlert, StoredReading, TraceQuery,
};
use crate::notification;

/// Everything that the gateway answers.
pub fn router(gateway: Gateway) -> Router {
    let open = Router::new()
        .route("/", get(dashboard::page))
        .route("/assets/{file}", get(dashboard::asset))
        .route("/health/live", get(async || Json(serde_json::json!({ "status": "live" }))))
        .route("/health/ready", get(ready));
    let guarded = Router::new()
        .route("/api/v1/devices/{device_id}/readings", post(readings::report))
        .route("/api/v1/devices", get(list_devices))
        .route("/api/v1/readings", get(list_readings))
        .route("/api/v1/aggregates", get(list_aggregates))
        .route("/api/v1/alerts", get(list_alerts))
        .route("/api/v1/dead-letters", get(list_dead_letters))
        .route("/api/v1/traces/{trace_id}", get(show_trace))
        .route("/api/v1/events", get(events))
        .route("/metrics", get(show_metrics))
        .route_layer(from_fn_with_state(gateway.clone(), access::require_token));
    open.merge(guarded)
        .method_not_allowed_fallback(async || {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "not with this method")
        })
        .fallback(async || ApiError::not_found())
        .layer(DefaultBodyLimit::max(readings::LARGEST_BODY))
        .layer(from_fn_with_state(gateway.clone(), access::require_origin))
        .layer(from_fn_with_state(gateway.clone(), metrics::count))
        .layer(map_response(async |mut response: Response| {
            for (name, value) in dashboard::HEADERS {
                response.headers_mut().entry(name).or_insert(value);
            }
            response
        }))
        .with_state(gateway)
}

async fn list_devices(
    State(gateway): State<Gateway>,
    mut params: Params,
) -> Result<Json<Vec<DeviceSeen>>, ApiError> {
    let query = DevicesQuery { limit: params.limit()? };
    params.finish(&["limit"])?;
    Ok(Json(gateway.queries.devices(query).await?.devices))
}

async fn list_readings(
    State(gateway): State<Gateway>,
    mut params: Params,
) -> Result<Json<Vec<StoredReading>>, ApiError> {
    let query = ReadingsQuery { device_id: params.device_id()?, limit: params.limit()? };
    params.finish(&["device_id", "limit"])?;
    Ok(Json(gateway.queries.readings(query).await?.readings))
}

async fn list_aggregates(
    State(gateway): State<Gateway>,
    mut params: Params,
) -> Result<Json<Vec<AggregateUpdated>>, ApiError> {
    let window = params.required("window", "1m or 10m")?;
    let query = AggregatesQuery { device_id: params.device_id()?, window, limit: params.limit()? };
    params.finish(&["window", "device_id", "limit"])?;
    Ok(Json(gateway.queries.aggregates(query).await?.aggregates))
}

async fn list_alerts(
    State(gateway): State<Gateway>,
    mut params: Params,
) -> Result<Json<Vec<StoredAlert>>, ApiError> {
    let query = AlertsQuery { device_id: params.device_id()?, limit: params.limit()? };
    params.finish(&["device_id", "limit"])?;
    Ok(Json(gateway.queries.alerts(query).await?.alerts))
}

async fn list_dead_letters(
    State(gateway): State<Gateway>,
    mut params: Params,
) -> Result<Json<Vec<DeadLetter>>, ApiError> {
    let query = DeadLettersQuery { limit: params.limit()? };
    params.finish(&["limit"])?;
    Ok(Json(gateway.queries.dead_letters(query).await?.dead_letters))
}

async fn show_trace(
    State(gateway): State<Gateway>,
    Path(trace_id): Path<String>,
) -> Result<Json<Vec<HopRecorded>>, ApiError> {
    let trace_id = params::trace_id(&trace_id)?;
    let hops = gateway.queries.trace(TraceQuery { trace_id }).await?.hops;
    if hops.is_empty() {
        return Err(ApiError::new(StatusCode::NOT_FOUND, "unknown_trace", "nothing is known of this trace"));
    }
    Ok(Json(hops))
}

async fn events(State(gateway): State<Gateway>, headers: HeaderMap) -> impl IntoResponse {
    notification::stream(&gateway.hub, &headers)
}

async fn ready(State(gateway): State<Gateway>) -> impl IntoResponse {
    let reasons = gateway.status.not_ready().await;
    let (code, status) = if reasons.is_empty() {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not_ready")
    };
    (code, Json(serde_json::json!({ "status": status, "reasons": reasons })))
}

async fn show_metrics(State(gateway): State<Gateway>) -> impl IntoResponse {
    let mut exposition = Exposition::default();
    gateway.http.expose(&mut exposition);
    gateway.status.metrics(&mut exposition);
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], exposition.into_text())
}
