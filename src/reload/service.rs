//! Waits for what asks for a reload, and carries it out: one after the other, on a thread made for blocking work.

use std::sync::Arc;

use async_trait::async_trait;
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use dgx_gateway_filter::Problem;
use dgx_gateway_filter::filter::BackgroundTask;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use crate::notify::Notifier;

use super::watch::{EVERY, Watch};
use super::{Reloaded, Reloader, Trigger};

/// Requests for a reload that wait.
const WAITING: usize = 16;

type Told = Result<Option<Reloaded>, Vec<Problem>>;

/// Asks for reloads.
#[derive(Clone, Debug)]
pub struct Asking(mpsc::Sender<oneshot::Sender<Told>>);

/// Carries reloads out, in the background.
pub struct ReloadService {
    reloader: Arc<Reloader>,
    asked: Mutex<mpsc::Receiver<oneshot::Sender<Told>>>,
    notifier: Arc<Notifier>,
}

impl ReloadService {
    /// The service, and how to ask it.
    #[must_use]
    pub fn new(reloader: Arc<Reloader>, notifier: Arc<Notifier>) -> (Self, Asking) {
        let (asking, asked) = mpsc::channel(WAITING);
        (Self { reloader, asked: Mutex::new(asked), notifier }, Asking(asking))
    }

    async fn reload(&self, trigger: Trigger, shutdown: &ShutdownWatch) -> Told {
        let reloader = Arc::clone(&self.reloader);
        self.notifier.reloading();
        let told = tokio::task::spawn_blocking(move || reloader.reload(trigger)).await;
        self.notifier.ready();
        let mut told = told.unwrap_or_else(|_| Err(vec![Problem::at("", "the reload was broken off")]));
        if let Ok(Some(reloaded)) = &mut told {
            for task in std::mem::take(&mut reloaded.tasks) {
                tokio::spawn(run(task, shutdown.clone()));
            }
        }
        told
    }
}

/// Runs background work until it ends or the process does.
///
/// # Cancel safety
/// Background work may be dropped at any await.
pub async fn run(task: BackgroundTask, mut shutdown: ShutdownWatch) {
    tokio::select! {
        () = task.run => tracing::debug!(task = task.name, "background task ended"),
        _ = shutdown.changed() => {}
    }
}

#[async_trait]
impl BackgroundService for ReloadService {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => hangup,
            Err(error) => return tracing::error!(%error, "SIGHUP cannot be watched; there are no reloads"),
        };
        let mut asked = self.asked.lock().await;
        let mut looks = tokio::time::interval(EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = Watch::default();
        loop {
            let told = tokio::select! {
                Some(told) = asked.recv() => Some((Trigger::Admin, Some(told))),
                _ = hangup.recv() => Some((Trigger::Signal, None)),
                _ = looks.tick() => watch.look(&self.reloader.watched()).then_some((Trigger::File, None)),
                _ = shutdown.changed() => return,
            };
            let Some((trigger, told)) = told else { continue };
            let result = self.reload(trigger, &shutdown).await;
            if let Some(told) = told {
                drop(told.send(result)); // whoever asked may have left
            }
        }
    }
}

impl Asking {
    /// Reloads, and says in an answer what came of it.
    pub async fn answer(self) -> Response {
        let (tell, told) = oneshot::channel();
        if self.0.try_send(tell).is_err() {
            return failed(StatusCode::SERVICE_UNAVAILABLE, &["too many reloads wait".to_owned()]);
        }
        match told.await {
            Ok(Ok(reloaded)) => succeeded(reloaded.as_ref()),
            Ok(Err(problems)) => {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                failed(StatusCode::UNPROCESSABLE_ENTITY, &problems)
            }
            Err(_) => failed(StatusCode::SERVICE_UNAVAILABLE, &["the process is being stopped".to_owned()]),
        }
    }
}

fn succeeded(reloaded: Option<&Reloaded>) -> Response {
    let Some(Reloaded { generation, changed, restart_needed, .. }) = reloaded else {
        return StatusCode::NO_CONTENT.into_response();
    };
    let mut body = json!({"ok": true, "generation": generation, "changed": changed});
    if let (Some(body), false) = (body.as_object_mut(), restart_needed.is_empty()) {
        body.insert("restart_needed".to_owned(), json!(restart_needed));
    }
    Json(body).into_response()
}

fn failed(status: StatusCode, errors: &[String]) -> Response {
    (status, Json(json!({"ok": false, "errors": errors}))).into_response()
}
