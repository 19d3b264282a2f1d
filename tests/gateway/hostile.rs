//! Peers that break the protocol, stand still or flood: the outcome is bounded and clear, and nothing stays behind.

mod bodies;
mod crowds;
mod heads;
mod http2;
mod names;
mod patience;
mod readers;
mod smuggling;
mod upstreams;

use crate::harness::{Client, Gateway, SOON, until};

/// Connections to upstreams that may be kept for the next request.
const POOLED: usize = 4;

/// Nothing of what ran is left: no request, no call of the backend `first`, no more sockets than before.
async fn nothing_is_left(gateway: &Gateway, sockets: usize) {
    gateway.idle().await;
    until("no call of the backend runs", async || {
        gateway.metrics().await.value("dgx_gateway_backend_in_flight{backend=\"first\"}") == 0.0
    })
    .await;
    until("its sockets are closed", async || gateway.sockets() <= sockets).await;
}

/// What came of a request, in a word: the status, the code of an error, and how a body ended.
async fn outcome(client: &mut Client) -> String {
    let all = async {
        let Ok((status, _)) = client.raw.read_head().await else { return "closed".to_owned() };
        let mut body = Vec::new();
        let end = loop {
            match client.raw.read_piece().await {
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                Ok(None) => break "",
                Err(_) => break " cut",
            }
        };
        let text = String::from_utf8_lossy(&body);
        let code = text.split_once("\"error\":{").and_then(|(_, rest)| {
            rest.split_once("\"code\":\"")?.1.split_once('"').map(|(code, _)| format!(" {code}"))
        });
        format!("{}{}{end}", status.as_u16(), code.unwrap_or_default())
    };
    tokio::time::timeout(SOON, all).await.unwrap_or_else(|_| "waits".to_owned())
}
