//! Starts the built gateway with files of its own, and checks on every answer what must always hold.

mod answer;
mod client;
mod files;
mod gateway;
mod metrics;
mod process;
mod setup;
mod stage;
pub(crate) mod tls;

use std::time::Duration;

pub(crate) use self::answer::{Answer, check_error};
pub(crate) use self::client::{Client, Exchange2, document, fill, post_h2};
pub(crate) use self::gateway::Gateway;
pub(crate) use self::metrics::Metrics;
pub(crate) use self::setup::{Setup, backend, model};
pub(crate) use self::stage::{Caller, Stage, chunk_of_stream, finish_of_stream};

/// The bearer of the caller.
pub(crate) const BEARER: &str = "b0b1b2b3b4b5b6b7b8b9babbbcbdbebfc0c1c2c3c4c5c6c7c8c9cacbcccdcecf";
/// The credential of the backends.
pub(crate) const BACKEND_KEY: &str = "key-of-the-backend-0123456789";
/// Words of prompts that must never reach a log.
pub(crate) const PROMPT: &str = "a-prompt-that-stays-private";
/// The longest that anything takes which happens at once, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// How often a condition of the process is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Looks again and again until something is so.
pub(crate) async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(SOON, async {
        while !so().await {
            tokio::time::sleep(LOOK).await;
        }
    });
    assert!(waited.await.is_ok(), "waited too long until {what}");
}

/// The result of something that happens at once.
pub(crate) async fn soon<T>(what: &str, result: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, result).await.unwrap_or_else(|_| panic!("waited too long: {what}"))
}
