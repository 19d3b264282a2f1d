//! Server-sent events at the pace of a small model.
//!
//! The body *is* the generator: events are made when they are asked for, and a dropped body makes none.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use serde::{Deserialize, Serialize};

/// Time before each word: about 33 words a second, a pace that one can watch.
pub(crate) const WORD_PAUSE: Duration = Duration::from_millis(30);

/// The event that ends every stream.
const DONE: &[u8] = b"data: [DONE]\n\n";

/// The `stream_options` member.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct StreamOptions {
    #[serde(default)]
    pub(crate) include_usage: Option<bool>,
}

/// Whether an event follows at once or after [`WORD_PAUSE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    AtOnce,
    Word,
}

/// One event and its pace.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) pace: Pace,
    pub(crate) event: Bytes,
}

impl Step {
    /// An event of one JSON object.
    pub(crate) fn json(pace: Pace, value: &impl Serialize) -> Self {
        let mut event = b"data: ".to_vec();
        // The values are plain structures with string keys, which serialise without fail.
        if serde_json::to_writer(&mut event, value).is_err() {
            event.truncate(b"data: ".len());
        }
        event.extend_from_slice(b"\n\n");
        Self { pace, event: event.into() }
    }
}

/// The whole response: the steps, then `[DONE]`.
pub(crate) fn response(steps: impl Iterator<Item = Step> + Send + 'static) -> Response {
    let done = std::iter::once(Step { pace: Pace::AtOnce, event: Bytes::from_static(DONE) });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, Body::from_stream(paced(steps.chain(done)))).into_response()
}

fn paced(steps: impl Iterator<Item = Step> + Send) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    stream::unfold(steps, async |mut steps| {
        let step = steps.next()?;
        if step.pace == Pace::Word {
            tokio::time::sleep(WORD_PAUSE).await;
        }
        Some((Ok(step.event), steps))
    })
}

/// Interleaves the pieces of several choices, as parallel generation would: one round, one pause.
pub(crate) fn rounds<T>(choices: Vec<Vec<T>>) -> Vec<(Pace, T)> {
    let mut choices: Vec<_> = choices.into_iter().map(Vec::into_iter).collect();
    let mut out = Vec::new();
    let mut first_round = true;
    loop {
        let round: Vec<T> = choices.iter_mut().filter_map(Iterator::next).collect();
        if round.is_empty() {
            return out;
        }
        let mut pace = if first_round { Pace::AtOnce } else { Pace::Word };
        first_round = false;
        for piece in round {
            out.push((pace, piece));
            pace = Pace::AtOnce;
        }
    }
}

/// The words of a text, each with the white space after it.
pub(crate) fn words(text: &str) -> impl Iterator<Item = String> {
    text.split_inclusive(char::is_whitespace).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::StreamExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nothing_is_generated_after_the_body_was_dropped() {
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let steps = std::iter::repeat_with(move || {
            count.fetch_add(1, Ordering::SeqCst);
            Step { pace: Pace::Word, event: Bytes::from_static(b"data: {}\n\n") }
        });
        let mut body = response(steps).into_body().into_data_stream();
        for _ in 0..3 {
            body.next().await.unwrap().unwrap();
        }
        drop(body);
        tokio::time::sleep(WORD_PAUSE * 100).await;
        assert_eq!(made.load(Ordering::SeqCst), 3);
        assert_eq!(Arc::strong_count(&made), 1);
    }

    #[test]
    fn choices_take_turns_and_share_a_pause() {
        use Pace::{AtOnce, Word};
        let rounds = rounds(vec![vec!["a1", "a2"], vec!["b1", "b2", "b3"]]);
        assert_eq!(rounds, [(AtOnce, "a1"), (AtOnce, "b1"), (Word, "a2"), (AtOnce, "b2"), (Word, "b3")]);
    }
}
