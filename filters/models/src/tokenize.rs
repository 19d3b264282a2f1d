//! Exact prompt counts, where a backend offers them: one small request to `POST /tokenize` at its root.

use std::time::Duration;

use bytes::Bytes;
use dgx_gateway_filter::body::Rope;
use dgx_gateway_wire::request::{Member, Scan};
use serde::Deserialize;

use crate::backend::Protocol;
use crate::catalog::Entry;
use crate::service::Models;

/// Longest wait for a count; after that the estimate serves.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Largest prompt that is sent over to be counted; for a larger one the estimate serves.
const MAX_PROMPT_BYTES: usize = 1024 * 1024;
/// Largest answer that is read: it lists every token.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

#[derive(Deserialize)]
struct Counted {
    count: u64,
}

/// The count of an entry, if its backend gives exact ones and its window is known.
///
/// # Cancel safety
/// Dropping it ends the request.
pub(crate) async fn count(
    service: &Models,
    entry: &Entry,
    scan: &Scan,
    body: &Rope,
    protocol: Protocol,
) -> Option<u64> {
    let backend = &entry.backend;
    if !backend.exact_tokens || !backend.protocols.contains(&Protocol::Tokenize) || entry.max_model_len().is_none() {
        return None;
    }
    let (name, prompt) = match protocol {
        Protocol::Chat => ("messages", scan.messages.as_ref()?),
        Protocol::Completions => ("prompt", scan.prompt.as_ref()?),
        _ => return None,
    };
    if prompt.value.len() + scan.tools.as_ref().map_or(0, |tools| tools.value.len()) > MAX_PROMPT_BYTES {
        return None;
    }
    let mut request = service.client_of(backend)?.post(format!("{}/tokenize", backend.root()?)).timeout(TIMEOUT);
    if let Some((name, value)) = &backend.credential {
        request = request.header(name, value);
    }
    let request = request.header("content-type", "application/json").body(question(
        entry,
        name,
        prompt,
        scan.tools.as_ref(),
        body,
    ));
    let answer = read(request.send().await.ok()?.error_for_status().ok()?).await;
    let counted = answer.and_then(|answer| serde_json::from_slice::<Counted>(&answer).ok());
    if counted.is_none() {
        tracing::debug!(backend.label = %backend.label, "no exact count; the estimate serves");
    }
    counted.map(|counted| counted.count)
}

async fn read(mut answer: reqwest::Response) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.ok()? {
        body.extend_from_slice(&piece);
        if body.len() > MAX_ANSWER_BYTES {
            return None;
        }
    }
    Some(body)
}

/// The prompt goes over byte for byte.
fn question(entry: &Entry, name: &str, prompt: &Member, tools: Option<&Member>, body: &Rope) -> Bytes {
    let model = serde_json::to_string(&*entry.model).unwrap_or_default();
    let mut out = format!("{{\"model\":{model},\"{name}\":").into_bytes();
    out.extend_from_slice(&body.read(prompt.value.clone()));
    if let Some(tools) = tools {
        out.extend_from_slice(b",\"tools\":");
        out.extend_from_slice(&body.read(tools.value.clone()));
    }
    out.push(b'}');
    Bytes::from(out)
}
