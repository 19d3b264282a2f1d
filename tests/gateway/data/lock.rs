//! One gateway at a time uses a data directory; its successor may overlap with it.

use super::load::{chat, priced};
use crate::harness::Gateway;

async fn is_in_use(gateway: &Gateway) -> bool {
    let ran = gateway.ran(&["serve"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.said);
    ran.said.contains("is in use by another gateway: stop that one first") && ran.said.contains("/data")
}

#[tokio::test]
async fn a_second_gateway_on_the_same_data_is_told_so() {
    let (_mock, setup) = priced().await;
    let mut gateway = setup.log("info").start().await;
    assert!(is_in_use(&gateway).await);
    gateway.chat(chat()).await.is_ok();
    // the process that takes over holds it with the one before, and without it
    let mut stream = gateway.client().await;
    stream.get("/healthz").await.is_ok();
    gateway.hand_over().await;
    assert!(is_in_use(&gateway).await);
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert!(is_in_use(&gateway).await);
    gateway.hand_over().await;
    assert!(is_in_use(&gateway).await);
    gateway.chat(chat()).await.is_ok();
}

/// The system gives the lock back.
#[tokio::test]
async fn after_a_kill_the_next_one_starts() {
    let (_mock, setup) = priced().await;
    let mut gateway = setup.start().await;
    gateway.killed_and_started_again().await;
    assert!(is_in_use(&gateway).await);
}

#[tokio::test]
async fn a_restore_that_did_not_end_is_not_served() {
    let (_mock, setup) = priced().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("data/.restore-not-finished")).unwrap();
    let ran = setup.run_in(dir.path(), &["serve"]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.said.contains("did not end: remove what is in") && ran.said.contains("restore again"), "{}", ran.said);
}
