//! The budget of held bytes: what does not fit is refused at once, and what ends gives its share back.

use dgx_gateway_testkit::mock::{MockUpstream, Script};
use http::StatusCode;

use crate::harness::{Answer, Client, Gateway, Setup, document, post_h2, soon};

const MIB: usize = 1024 * 1024;
/// Leaves room for the answer, which is held as well.
const MOST: usize = MIB - 64 * 1024;

async fn started() -> (Gateway, MockUpstream) {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let gateway =
        Setup::with_upstream(mock.addr()).server("max_body_bytes", MIB).server("max_held_bytes", MIB).start().await;
    (gateway, mock)
}

/// Begins an upload that takes the budget; the interim answer shows that it has it.
async fn take_budget(gateway: &Gateway, size: usize) -> Client {
    let mut client = gateway.client().await;
    client.chat_head(&[("content-length", &size.to_string()), ("expect", "100-continue")]).await;
    let (interim, _) = soon("the interim answer", client.raw.read_interim()).await.unwrap();
    assert_eq!(interim, StatusCode::CONTINUE);
    client
}

fn is_overloaded(answer: &Answer) {
    answer.is_error(503, "service_overloaded", "");
    assert_eq!((answer.header("retry-after"), answer.header("retry-after-ms")), (Some("1"), Some("1000")));
}

#[tokio::test]
async fn a_second_upload_is_refused_until_the_first_has_ended() {
    let (gateway, mock) = started().await;
    let (body, _) = document(MOST, true, "");
    let mut first = take_budget(&gateway, MOST).await;
    first.raw.send(&body[..MOST / 2]).await.unwrap();

    let (other, _) = document(MIB / 2, true, "");
    is_overloaded(&gateway.chat(&other).await);
    is_overloaded(&gateway.client().await.chat_chunked(&other, 10_000).await);
    is_overloaded(&post_h2(&mut gateway.h2().await, gateway.addr, "/v1/chat/completions", other.clone(), false).await);
    assert!(mock.requests().is_empty());

    first.raw.send(&body[MOST / 2..]).await.unwrap();
    first.answer().await.is_ok();
    gateway.idle().await;
    gateway.chat(&other).await.is_ok();
}

#[tokio::test]
async fn an_upload_that_is_given_up_gives_its_share_back() {
    let (gateway, _mock) = started().await;
    for reset in [false, true] {
        let client = take_budget(&gateway, MOST).await;
        if reset {
            client.raw.abort().unwrap();
        } else {
            drop(client);
        }
        gateway.idle().await;
    }
    gateway.chat(document(MOST, true, "").0).await.is_ok();
}

#[tokio::test]
async fn small_requests_pass_beside_a_large_one() {
    let (gateway, _mock) = started().await;
    let mut large = take_budget(&gateway, MOST).await;
    for _ in 0..20 {
        gateway.chat(document(1000, true, "").0).await.is_ok();
    }
    large.raw.send(document(MOST, true, "").0).await.unwrap();
    large.answer().await.is_ok();
}

#[tokio::test]
async fn the_largest_body_that_is_allowed_is_answered() {
    let (gateway, _mock) = started().await;
    gateway.chat(document(MIB, true, "").0).await.is_ok();
}
