//! `/healthz` and `/readyz` with their aliases.

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use dgx_gateway_filter::clock::Clock;
use dgx_gateway_filter::health::{HealthBoard, Severity};
use dgx_gateway_filter::{BuildEnv, BuildError, EndpointKind};
use serde::Serialize;

/// The endpoint kind `health`.
pub struct Health;

impl EndpointKind for Health {
    const NAME: &'static str = "health";

    fn build(env: &BuildEnv) -> Result<Router, BuildError> {
        let board = Board { health: Arc::clone(&env.health), clock: Arc::clone(&env.clock), built: env.clock.wall() };
        let mut router = Router::new();
        for path in ["/healthz", "/livez", "/health"] {
            router = router.route(path, get(alive));
        }
        for path in ["/readyz", "/health/readiness"] {
            router = router.route(path, get(ready));
        }
        Ok(router.with_state(board))
    }
}

#[derive(Clone)]
struct Board {
    health: Arc<HealthBoard>,
    clock: Arc<dyn Clock>,
    built: SystemTime,
}

#[derive(Serialize)]
struct Alive {
    status: &'static str,
}

async fn alive() -> Json<Alive> {
    Json(Alive { status: "ok" })
}

#[derive(Serialize)]
struct Ready {
    status: &'static str,
    ready: bool,
    degraded_reasons: Vec<&'static str>,
    checked_at: String,
}

async fn ready(State(board): State<Board>) -> (StatusCode, Json<Ready>) {
    let limitations = board.health.limitations();
    let worst = limitations.iter().map(|limitation| limitation.severity).max();
    let (status, ready, code) = match worst {
        None => ("ok", true, StatusCode::OK),
        Some(Severity::Degraded) => ("degraded", true, StatusCode::OK),
        Some(Severity::Impaired) => ("critical", true, StatusCode::OK),
        Some(Severity::Unready) => ("critical", false, StatusCode::SERVICE_UNAVAILABLE),
    };
    let checked_at = board.health.checked_at().unwrap_or_else(|| board.built.min(board.clock.wall()));
    let degraded_reasons = limitations.into_iter().map(|limitation| limitation.reason).collect();
    (code, Json(Ready { status, ready, degraded_reasons, checked_at: rfc3339(checked_at) }))
}

/// UTC with second precision.
fn rfc3339(at: SystemTime) -> String {
    let at = jiff::Timestamp::try_from(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    jiff::Timestamp::from_second(at.as_second()).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dgx_gateway_filter::ambient::Ambient;
    use dgx_gateway_filter::clock::ManualClock;
    use dgx_gateway_filter::health::{HealthSource, Limitation};
    use http_body_util::BodyExt;
    use std::time::Duration;
    use tower::ServiceExt;

    struct Limited(Vec<Limitation>);

    impl HealthSource for Limited {
        fn limitations(&self) -> Vec<Limitation> {
            self.0.clone()
        }
    }

    async fn ask(limitations: &[(&'static str, Severity)]) -> (u16, serde_json::Value) {
        let clock = ManualClock::starting_at(SystemTime::UNIX_EPOCH + Duration::from_millis(1_779_000_000_500));
        let env = BuildEnv::new(Arc::new(clock), Ambient::default(), "data".into(), prometheus::Registry::new());
        let limitations = limitations.iter().map(|(reason, severity)| Limitation { reason, severity: *severity });
        env.health.add(Arc::new(Limited(limitations.collect())));
        let request = axum::http::Request::get("/readyz").body(axum::body::Body::empty()).unwrap();
        let response = Health::build(&env).unwrap().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap())
    }

    #[tokio::test]
    async fn readiness_follows_the_worst_limitation() {
        let (status, body) = ask(&[]).await;
        assert_eq!(
            (status, body.to_string()),
            (
                200,
                r#"{"checked_at":"2026-05-17T06:40:00Z","degraded_reasons":[],"ready":true,"status":"ok"}"#.to_owned()
            )
        );
        for (severity, code, word, ready) in [
            (Severity::Degraded, 200, "degraded", true),
            (Severity::Impaired, 200, "critical", true),
            (Severity::Unready, 503, "critical", false),
        ] {
            let (status, body) = ask(&[("search service limited", Severity::Degraded), ("draining", severity)]).await;
            assert_eq!((status, body["status"].as_str(), body["ready"].as_bool()), (code, Some(word), Some(ready)));
            assert_eq!(body["degraded_reasons"].as_array().unwrap().len(), 2);
        }
    }
}
