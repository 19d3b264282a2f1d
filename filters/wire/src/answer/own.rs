//! Events of the gateway itself inside a stream. Each is a valid chunk with one empty choice plus its own member, so
//! that every client that reads the stream reads it, too.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::members::Members;

/// Which stream the event stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
}

/// What all chunks of a stream have in common.
#[derive(Clone, Debug, Default)]
pub struct Stamp {
    id: Option<Box<RawValue>>,
    created: Option<Box<RawValue>>,
}

impl Stamp {
    /// Takes it from a chunk of the stream. What the chunk does not say stays unknown.
    #[must_use]
    pub fn of_chunk(data: &Bytes) -> Self {
        let Some(members) = Members::parse(data) else { return Self::default() };
        let take = |name, first: fn(u8) -> bool| {
            let value = members.value(name)?;
            value.get().bytes().next().is_some_and(first).then(|| value.to_owned())
        };
        Self { id: take("id", |byte| byte == b'"'), created: take("created", |byte| byte.is_ascii_digit()) }
    }

    /// Whether anything is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.id.is_none() && self.created.is_none()
    }
}

/// What a request cost, as a stream tells it. Amounts are decimal text and become JSON numbers as they stand.
#[derive(Clone, Copy, Debug)]
pub struct CostMember<'a> {
    /// Where the cost comes from.
    pub source: &'a str,
    /// Euros, US dollars, euros per dollar, and where that rate comes from; `None` when the cost is not known.
    pub amounts: Option<[&'a str; 4]>,
}

/// The event `spass.cost`.
#[must_use]
pub fn cost_event(
    kind: StreamKind,
    stamp: &Stamp,
    model: &str,
    client_wants_usage: bool,
    cost: CostMember<'_>,
) -> Bytes {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let (object, choice) = match kind {
        StreamKind::Chat => ("chat.completion.chunk", r#"{"index":0,"delta":{},"finish_reason":null}"#),
        StreamKind::Completions => ("text_completion", r#"{"index":0,"text":"","logprobs":null,"finish_reason":null}"#),
    };
    let id = stamp.id.as_ref().map_or("\"\"", |id| id.get());
    let created = stamp.created.as_ref().map_or("0", |created| created.get());
    let usage = if client_wants_usage { ",\"usage\":null" } else { "" };
    let [eur, usd, rate, rate_source] = match cost.amounts {
        Some([eur, usd, rate, source]) => [eur.to_owned(), usd.to_owned(), rate.to_owned(), quoted(source)],
        None => ["null"; 4].map(str::to_owned),
    };
    let (model, source, available) = (quoted(model), quoted(cost.source), cost.amounts.is_some());
    Bytes::from(format!(
        "event: spass.cost\ndata: {{\"id\":{id},\"object\":\"{object}\",\"created\":{created},\"model\":{model},\"choices\":[{choice}]{usage},\"cost\":{{\"eur\":{eur},\"usd\":{usd},\"source\":{source},\"available\":{available},\"exchange_rate\":{rate},\"exchange_rate_source\":{rate_source}}}}}\n\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(event: &Bytes) -> serde_json::Value {
        let text = std::str::from_utf8(event).unwrap();
        let data = text.strip_prefix("event: spass.cost\ndata: ").and_then(|rest| rest.strip_suffix("\n\n")).unwrap();
        assert!(!data.contains('\n'));
        serde_json::from_str(data).unwrap()
    }

    #[test]
    fn is_the_event_of_the_specification() {
        let stamp = Stamp::of_chunk(&Bytes::from_static(
            br#"{"id":"chatcmpl-7c1e","object":"chat.completion.chunk","created":1777411833,"choices":[]}"#,
        ));
        let cost = CostMember { source: "upstream", amounts: Some(["0.02", "0.02", "0.8546", "ecb-2026-05-15"]) };
        let event = cost_event(StreamKind::Chat, &stamp, "claude-opus-4.7", false, cost);
        assert_eq!(
            std::str::from_utf8(&event).unwrap(),
            "event: spass.cost\ndata: {\"id\":\"chatcmpl-7c1e\",\"object\":\"chat.completion.chunk\",\"created\":1777411833,\"model\":\"claude-opus-4.7\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":null}],\"cost\":{\"eur\":0.02,\"usd\":0.02,\"source\":\"upstream\",\"available\":true,\"exchange_rate\":0.8546,\"exchange_rate_source\":\"ecb-2026-05-15\"}}\n\n"
        );
    }

    #[test]
    fn an_unknown_cost_has_no_amounts_and_completions_have_their_own_form() {
        let unknown = CostMember { source: "unknown", amounts: None };
        let event = data(&cost_event(StreamKind::Completions, &Stamp::default(), "a \"b\"", true, unknown));
        assert_eq!(
            event,
            serde_json::json!({
                "id": "", "object": "text_completion", "created": 0, "model": "a \"b\"", "usage": null,
                "choices": [{"index": 0, "text": "", "logprobs": null, "finish_reason": null}],
                "cost": {"eur": null, "usd": null, "source": "unknown", "available": false, "exchange_rate": null, "exchange_rate_source": null},
            })
        );
    }

    #[test]
    fn values_of_another_type_are_not_taken_over() {
        let odd = Stamp::of_chunk(&Bytes::from_static(br#"{"id":7,"created":"x"}"#));
        assert!(odd.is_empty());
        assert!(Stamp::of_chunk(&Bytes::from_static(b"[DONE]")).is_empty());
    }
}
