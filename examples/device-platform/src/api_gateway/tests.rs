use std::sync::Mutex;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, Response, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::messages::{HopRecorded, Window};
use crate::settings::Listen;

const GOOD: &str = r#"{"temperature":21.5,"humidity":40,"light":0,"co2":420,"at":"2015-02-02T14:19:00Z"}"#;

/// Remembers what it was asked.
#[derive(Default)]
struct Platform {
    down: bool,
    accepted: Mutex<Vec<ReadingReported>>,
    asked: Mutex<Vec<String>>,
}

impl Platform {
    fn answer<Q: fmt::Debug, A: Default>(&self, query: &Q) -> Result<A, Unavailable> {
        if self.down {
            let retry_after = Duration::from_millis(1_200);
            return Err(Unavailable { reason: "the broker does not answer".to_owned(), retry_after });
        }
        self.asked.lock().unwrap().push(format!("{query:?}"));
        Ok(A::default())
    }
}

#[async_trait]
impl ReadingSink for Platform {
    async fn accept(&self, reading: ReadingReported) -> Result<Accepted, Unavailable> {
        let () = self.answer(&"accept")?;
        self.accepted.lock().unwrap().push(reading);
        Ok(Accepted { id: "i".to_owned(), trace_id: "t".to_owned() })
    }
}

#[async_trait]
impl Queries for Platform {
    async fn devices(&self, query: DevicesQuery) -> Result<DevicesAnswer, Unavailable> {
        self.answer(&query)
    }
    async fn readings(&self, query: ReadingsQuery) -> Result<ReadingsAnswer, Unavailable> {
        self.answer(&query)
    }
    async fn aggregates(&self, query: AggregatesQuery) -> Result<AggregatesAnswer, Unavailable> {
        self.answer(&query)
    }
    async fn alerts(&self, query: AlertsQuery) -> Result<AlertsAnswer, Unavailable> {
        self.answer(&query)
    }
    async fn dead_letters(&self, query: DeadLettersQuery) -> Result<DeadLettersAnswer, Unavailable> {
        self.answer(&query)
    }
    async fn trace(&self, query: TraceQuery) -> Result<TraceAnswer, Unavailable> {
        let mut answer: TraceAnswer = self.answer(&query)?;
        if query.trace_id.starts_with('a') {
            answer.hops.push(HopRecorded {
                trace_id: query.trace_id,
                id: "i".to_owned(),
                causation_id: None,
                hop: 0,
                topic: "device.d.reading".to_owned(),
                r#type: "device.reading.reported".to_owned(),
                component: "device.hw".to_owned(),
                time: jiff::Timestamp::UNIX_EPOCH,
                outcome: "published".to_owned(),
                attempts: 0,
            });
        }
        Ok(answer)
    }
}

#[async_trait]
impl Status for Platform {
    async fn not_ready(&self) -> Vec<String> {
        if self.down { vec!["broker: connection refused".to_owned()] } else { vec![] }
    }
    fn metrics(&self, exposition: &mut Exposition) {
        exposition.metric("msgkit_up", metrics::Kind::Gauge, "Up.", [(vec![], 1.0)]);
    }
}

struct Http {
    platform: Arc<Platform>,
    hub: Hub,
    router: Router,
}

fn http_with(platform: Platform, token: Option<&str>) -> Http {
    let platform = Arc::new(platform);
    let hub = Hub::new(1, 10);
    let access = Access::new(Listen::default(), token.map(|t| t.parse().unwrap())).unwrap();
    let router = router(Gateway {
        sink: platform.clone(),
        queries: platform.clone(),
        hub: hub.clone(),
        status: platform.clone(),
        access: Arc::new(access),
        http: Arc::default(),
    });
    Http { platform, hub, router }
}

fn http() -> Http {
    http_with(Platform::default(), None)
}

impl Http {
    async fn send(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        read(self.send(get(path).body(Body::empty()).unwrap()).await).await
    }

    async fn post(&self, path: &str, body: impl Into<Body>) -> (StatusCode, Value) {
        read(self.send(get(path).method("POST").body(body.into()).unwrap()).await).await
    }
}

fn get(path: &str) -> axum::http::request::Builder {
    Request::builder().uri(path).header("host", "localhost:8080")
}

async fn read(response: Response<Body>) -> (StatusCode, Value) {
    let status = response.status();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let text = String::from_utf8_lossy(&body).into_owned();
    (status, serde_json::from_slice(&body).unwrap_or(Value::String(text)))
}

fn message(body: &Value) -> &str {
    body["error"]["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_reading_is_accepted_once_the_sink_has_it() {
    let http = http();
    let answer = http.post("/api/v1/devices/aa:bb:cc/readings", GOOD).await;
    assert_eq!(answer, (StatusCode::ACCEPTED, json!({ "id": "i", "trace_id": "t" })));
    let accepted = http.platform.accepted.lock().unwrap();
    assert_eq!(accepted[0].device_id, "aa:bb:cc");
    assert_eq!((accepted[0].temperature, accepted[0].at.as_second()), (21.5, 1_422_886_740));
}

#[tokio::test]
async fn without_a_time_it_is_now() {
    let http = http();
    let before = jiff::Timestamp::now().as_microsecond();
    http.post("/api/v1/devices/d/readings", r#"{"temperature":1,"humidity":1,"light":1,"co2":1}"#).await;
    let at = http.platform.accepted.lock().unwrap()[0].at;
    assert!((before..=jiff::Timestamp::now().as_microsecond()).contains(&at.as_microsecond()));
    assert_eq!(at.subsec_nanosecond() % 1_000, 0);
}

#[tokio::test]
async fn a_wrong_body_is_refused_with_the_reason() {
    let http = http();
    for (body, status, reason) in [
        ("", StatusCode::BAD_REQUEST, "the body is not JSON: EOF"),
        ("temperature=1", StatusCode::BAD_REQUEST, "the body is not JSON: expected"),
        (r#"{"temperature":1e999}"#, StatusCode::BAD_REQUEST, "number out of range"),
        ("{}", StatusCode::UNPROCESSABLE_ENTITY, "missing field `temperature`"),
        ("[1]", StatusCode::UNPROCESSABLE_ENTITY, "not a reading: "),
        (&GOOD.replace("40", "\"40\""), StatusCode::UNPROCESSABLE_ENTITY, "invalid type: string"),
        (&GOOD.replace("\"at\"", "\"time\""), StatusCode::UNPROCESSABLE_ENTITY, "unknown field `time`"),
        (&GOOD.replace("2015-02-02T", "yesterday "), StatusCode::UNPROCESSABLE_ENTITY, "at (RFC 3339"),
    ] {
        let (got, answer) = http.post("/api/v1/devices/d/readings", body.to_owned()).await;
        assert_eq!(got, status, "{body}: {answer}");
        assert!(message(&answer).contains(reason), "{body}: {answer}");
    }
    assert!(http.platform.accepted.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_body_over_one_mebibyte_is_refused() {
    let http = http();
    let mut body = GOOD.as_bytes().to_vec();
    body.resize(readings::LARGEST_BODY, b' ');
    assert_eq!(http.post("/api/v1/devices/d/readings", body.clone()).await.0, StatusCode::ACCEPTED);
    body.push(b' ');
    let (status, answer) = http.post("/api/v1/devices/d/readings", body).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(message(&answer).contains("larger than 1 MiB"), "{answer}");
}

#[tokio::test]
async fn a_device_id_that_fits_no_topic_is_refused() {
    let http = http();
    for id in ["a%0Ab", "_", &"x".repeat(65), "%00"] {
        let (status, answer) = http.post(&format!("/api/v1/devices/{id}/readings"), GOOD).await;
        assert_eq!(
            (status, &answer["error"]["code"]),
            (StatusCode::BAD_REQUEST, &json!("invalid_device_id"))
        );
    }
    let longest = "x".repeat(64);
    let (status, _) = http.post(&format!("/api/v1/devices/{longest}/readings"), GOOD).await;
    assert_eq!(status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn trouble_behind_the_gateway_is_a_503_that_says_when_to_come_back() {
    let http = http_with(Platform { down: true, ..Platform::default() }, None);
    let request = get("/api/v1/devices/d/readings").method("POST").body(Body::from(GOOD)).unwrap();
    let response = http.send(request).await;
    assert_eq!(response.headers()["retry-after"], "2");
    let (status, answer) = read(response).await;
    assert_eq!((status, message(&answer)), (StatusCode::SERVICE_UNAVAILABLE, "the broker does not answer"));
    assert_eq!(http.get("/api/v1/readings").await.0, StatusCode::SERVICE_UNAVAILABLE);

    let (status, answer) = http.get("/health/ready").await;
    assert_eq!(
        (status, &answer["reasons"][0]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("broker: connection refused"))
    );
    assert_eq!(http.get("/health/live").await.0, StatusCode::OK);
}

#[tokio::test]
async fn queries_are_asked_as_they_were_given() {
    let http = http();
    for path in [
        "/api/v1/readings?device_id=a%20b&limit=7",
        "/api/v1/readings?device_id=&limit=",
        "/api/v1/aggregates?window=10m",
        "/api/v1/alerts?limit=1000",
        "/api/v1/dead-letters",
        "/api/v1/devices?limit=5",
    ] {
        assert_eq!(http.get(path).await, (StatusCode::OK, json!([])), "{path}");
    }
    let asked = http.platform.asked.lock().unwrap();
    assert_eq!(asked[0], format!("{:?}", ReadingsQuery { device_id: Some("a b".to_owned()), limit: 7 }));
    assert_eq!(asked[1], format!("{:?}", ReadingsQuery { device_id: None, limit: 100 }));
    assert_eq!(
        asked[2],
        format!("{:?}", AggregatesQuery { device_id: None, window: Window::TenMinutes, limit: 100 })
    );
}

#[tokio::test]
async fn a_wrong_parameter_is_refused_with_what_is_right() {
    let http = http();
    for (path, reason) in [
        ("/api/v1/readings?limit=0", "`limit` is a number from 1 to 1000"),
        ("/api/v1/readings?limit=1001", "`limit` is a number from 1 to 1000"),
        ("/api/v1/readings?limit=ten", "`limit` is a number from 1 to 1000"),
        ("/api/v1/readings?limit=1&limit=2", "`limit` is there twice"),
        ("/api/v1/readings?divice_id=a", "`divice_id` is not a parameter here: device_id, limit"),
        ("/api/v1/readings?device_id=a%0A", "a device id has no control characters"),
        ("/api/v1/aggregates", "`window` is missing: 1m or 10m"),
        ("/api/v1/aggregates?window=5m", "`5m` is not a window: the windows are `1m` and `10m`"),
        ("/api/v1/dead-letters?device_id=a", "`device_id` is not a parameter here: limit"),
        ("/api/v1/traces/xyz", "a trace id has 32 hexadecimal digits"),
    ] {
        let (status, answer) = http.get(path).await;
        assert_eq!((status, message(&answer)), (StatusCode::BAD_REQUEST, reason), "{path}");
    }
    assert!(http.platform.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_trace_is_a_list_of_hops() {
    let http = http();
    let (status, answer) = http.get("/api/v1/traces/ABCDEFABCDEFABCDEFABCDEFABCDEFAB").await;
    assert_eq!(status, StatusCode::OK);
    let keys: Vec<_> = answer[0].as_object().unwrap().keys().map(String::as_str).collect();
    for key in ["id", "causation_id", "hop", "topic", "type", "component", "time", "outcome", "attempts"] {
        assert!(keys.contains(&key), "{key} is missing in {answer}");
    }
    assert_eq!(http.get("/api/v1/traces/00000000000000000000000000000000").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn with_a_token_the_interface_is_closed_and_the_page_is_not() {
    let http = http_with(Platform::default(), Some("correct-horse-battery"));
    let with = async |value: &str| {
        let request = get("/api/v1/readings").header("authorization", value);
        http.send(request.body(Body::empty()).unwrap()).await.status()
    };
    for wrong in
        ["Bearer correct-horse-batterz", "Bearer ", "Basic correct-horse-battery", "x", "Bearer correct"]
    {
        assert_eq!(with(wrong).await, StatusCode::UNAUTHORIZED, "{wrong}");
    }
    assert_eq!(with("bearer correct-horse-battery").await, StatusCode::OK);

    for path in ["/api/v1/events", "/metrics", "/api/v1/dead-letters"] {
        let response = http.send(get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
    }
    for path in
        ["/", "/assets/main.js", "/assets/dashboard.css", "/assets/icon.svg", "/health/live", "/health/ready"]
    {
        assert_eq!(http.get(path).await.0, StatusCode::OK, "{path}");
    }
    assert_eq!(http.post("/api/v1/devices/d/readings", GOOD).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn pages_of_other_origins_are_not_answered() {
    let http = http();
    let from = async |host: &str, origin: Option<&str>| {
        let mut request = Request::builder().uri("/api/v1/readings").header("host", host);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        http.send(request.body(Body::empty()).unwrap()).await.status()
    };
    assert_eq!(from("127.0.0.1:8080", Some("http://127.0.0.1:8080")).await, StatusCode::OK);
    assert_eq!(from("[::1]:8080", None).await, StatusCode::OK);
    assert_eq!(from("localhost", None).await, StatusCode::OK);
    for (host, origin) in [
        ("localhost:8080", Some("https://evil.example")),
        ("localhost:8080", Some("http://localhost:9090")),
        ("localhost:8080", Some("null")),
        ("evil.example", None),
        ("evil.example", Some("http://evil.example")),
        ("localhost.evil.example", None),
        ("", None),
    ] {
        assert_eq!(from(host, origin).await, StatusCode::FORBIDDEN, "{host} {origin:?}");
    }
}

#[tokio::test]
async fn events_are_streamed_and_resumed() {
    let http = http();
    for number in 1..=3 {
        http.hub.publish("reading", format!("{{\"n\":{number}}}"));
    }
    let request = get("/api/v1/events").header("last-event-id", "00000001-1").body(Body::empty()).unwrap();
    let response = http.send(request).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    http.hub.close();
    let (_, text) = read(response).await;
    let expected = "id: 00000001-2\nevent: reading\ndata: {\"n\":2}\n\n\
                    id: 00000001-3\nevent: reading\ndata: {\"n\":3}\n\n";
    assert_eq!(text, expected);

    let request = get("/api/v1/events").header("last-event-id", "nonsense").body(Body::empty()).unwrap();
    assert_eq!(read(http.send(request).await).await.1, "event: reset\ndata: {}\n\n");
}

#[tokio::test]
async fn metrics_count_by_route() {
    let http = http();
    http.post("/api/v1/devices/a/readings", GOOD).await;
    http.post("/api/v1/devices/b/readings", GOOD).await;
    http.get("/nowhere").await;
    let (_, text) = http.get("/metrics").await;
    let text = text.as_str().unwrap();
    for line in [
        "http_server_requests_total{route=\"/api/v1/devices/{device_id}/readings\",method=\"POST\",status=\"202\"} 2",
        "http_server_requests_total{route=\"unknown\",method=\"GET\",status=\"404\"} 1",
        "msgkit_up 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_an_error_of_the_same_shape() {
    let http = http();
    assert_eq!(http.get("/api/v2").await.1["error"]["code"], "not_found");
    let (status, answer) = http.post("/api/v1/readings", "").await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (StatusCode::METHOD_NOT_ALLOWED, &json!("method_not_allowed"))
    );
}

#[tokio::test]
async fn every_answer_forbids_foreign_content() {
    let response = http().send(get("/").body(Body::empty()).unwrap()).await;
    let policy = response.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'self'"), "{policy}");
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
}
