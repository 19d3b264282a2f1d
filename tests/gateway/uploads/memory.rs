//! An upload of 90 MB costs no memory.

use super::form::{MIB, ORDERS, Order, Sent, recording};
use crate::harness::{Setup, Stage, until};

/// Below the default limit of 100 MiB.
const SIZE: usize = 90_000_000;
/// Most that the process may grow by.
const GROWTH: usize = 16 * MIB;

async fn grows_little(order: Order, how: Sent) {
    let mut stage = Stage::open_at_head().await;
    let gateway = Setup::new().route(super::plain::route(stage.addr)).start().await;
    let body = recording(SIZE, order, "m");
    let before = gateway.memory("VmRSS");
    gateway.forget_peak();
    let mut upstream_body = Vec::new();
    let (answer, ()) = tokio::join!(super::form::send(&gateway, "/upload", how, &body), async {
        let mut caller = stage.caller().await;
        while caller.body.len() < body.len() {
            assert!(caller.read_some().await);
        }
        upstream_body = std::mem::take(&mut caller.body);
        caller.answer("{\"text\":\"\"}").await;
    });
    answer.is_ok();
    assert!(how != Sent::Sized || upstream_body == body);
    let peak = gateway.memory("VmHWM");
    assert!(peak < before + GROWTH, "{order:?} {how:?}: {} MiB more", peak.saturating_sub(before) / MIB);
    until("the files are gone", async || gateway.open_data_files() == 0).await;
}

#[tokio::test]
async fn however_the_form_is_ordered() {
    for order in ORDERS {
        grows_little(order, Sent::Sized).await;
    }
}

#[tokio::test]
async fn over_http2() {
    for order in ORDERS {
        grows_little(order, Sent::Http2Sized).await;
    }
}
