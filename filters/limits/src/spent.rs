//! What a model call used, as far as it can be known. Pure.

use bytes::Bytes;
use dgx_gateway_filter::Outcome;
use dgx_gateway_filter::facts::{Usage, WorstCase};
use memchr::memchr_iter;

/// How the line with the data of an event begins.
const DATA: &[u8] = b"data:";

/// Bytes of a whole answer that are about one token.
const BYTES_PER_TOKEN: u64 = 4;

/// How a call goes on, for the estimate when nobody reports its usage.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Something was sent to a model.
    sent: bool,
    /// The answer that passes is a stream of events.
    stream: bool,
    events: u64,
    bytes: u64,
}

impl Progress {
    /// An attempt begins. What an earlier one brought does not count.
    pub(crate) fn attempt(&mut self) {
        *self = Self { sent: true, ..Self::default() };
    }

    /// The head of the answer that passes.
    pub(crate) fn head(&mut self, stream: bool) {
        self.stream = stream;
    }

    /// A piece of it. An event that is cut in two by pieces may be missed: this is an estimate.
    pub(crate) fn piece(&mut self, piece: &Bytes) {
        if self.stream {
            self.events += events(piece);
        } else {
            self.bytes += piece.len() as u64;
        }
    }

    /// Tokens that count when the request has ended.
    ///
    /// | What happened | Tokens |
    /// |---|---|
    /// | the model reported its usage | that |
    /// | nothing was sent to a model, or the answer is an error | none |
    /// | an answer without usage, or a part of one | the input of the worst case, and an estimate of what came: a token per event of a stream, or per four bytes; at most the worst case |
    pub(crate) fn spent(&self, outcome: &Outcome, usage: Option<&Usage>, worst: WorstCase) -> u64 {
        if let Some(usage) = usage {
            return usage.prompt_tokens.saturating_add(usage.completion_tokens);
        }
        let refused = matches!(outcome, Outcome::Answered { status, .. } if !status.is_success());
        if refused || !self.sent {
            return 0;
        }
        let came = self.events + self.bytes.div_ceil(BYTES_PER_TOKEN);
        worst.input_tokens().saturating_add(came.min(worst.output_tokens))
    }
}

/// Lines that begin with data. Most text has few of their ends, so that to look at each is cheaper than to look for words.
fn events(piece: &[u8]) -> u64 {
    let begins = |at: usize| piece.get(at..).is_some_and(|rest| rest.starts_with(DATA));
    let behind = memchr_iter(b'\n', piece).filter(|end| begins(end + 1)).count();
    behind as u64 + u64::from(begins(0))
}

#[cfg(test)]
mod tests {
    use dgx_gateway_filter::ErrorCode;
    use http::StatusCode;

    use super::*;

    const WORST: WorstCase = WorstCase { input_bytes: 101, output_tokens: 20, images: 0 };
    const OK: Outcome = Outcome::Answered { status: StatusCode::OK, code: None };

    fn sent() -> Progress {
        let mut progress = Progress::default();
        progress.attempt();
        progress
    }

    #[test]
    fn reported_usage_counts_whatever_happened() {
        let usage = Usage { prompt_tokens: 7, completion_tokens: 5, cached_tokens: 3, ..Usage::default() };
        for outcome in [OK, Outcome::ClientLeft, Outcome::Cut(ErrorCode::UpstreamError), Outcome::Dropped] {
            assert_eq!(sent().spent(&outcome, Some(&usage), WORST), 12);
        }
        let absurd = Usage { prompt_tokens: u64::MAX, completion_tokens: 1, cached_tokens: 0, ..Usage::default() };
        assert_eq!(sent().spent(&OK, Some(&absurd), WORST), u64::MAX);
    }

    #[test]
    fn what_never_reached_a_model_and_what_failed_costs_nothing() {
        assert_eq!(Progress::default().spent(&Outcome::ClientLeft, None, WORST), 0);
        let failed = Outcome::Answered { status: StatusCode::BAD_GATEWAY, code: Some(ErrorCode::UpstreamError) };
        assert_eq!(sent().spent(&failed, None, WORST), 0);
    }

    #[test]
    fn a_client_that_leaves_while_it_waits_pays_the_input() {
        for outcome in [Outcome::ClientLeft, Outcome::Dropped] {
            assert_eq!(sent().spent(&outcome, None, WORST), 51);
        }
    }

    #[test]
    fn a_stream_that_ends_early_counts_its_events() {
        let mut progress = sent();
        progress.head(true);
        progress.piece(&Bytes::from_static(b"data: {}\n\ndata: {}\n\n: comment\n\n"));
        progress.piece(&Bytes::from_static(b"data: {}\n\n"));
        assert_eq!(progress.spent(&Outcome::ClientLeft, None, WORST), 51 + 3);
        // whatever ends the lines, and whatever stands in them
        progress.piece(&Bytes::from_static(b"event: a\r\ndata: {}\r\n\r\ndata: {\"text\":\"data: data: \"}\n\n"));
        assert_eq!(progress.spent(&Outcome::ClientLeft, None, WORST), 51 + 5);
    }

    #[test]
    fn an_answer_without_usage_counts_its_bytes_up_to_the_worst_case() {
        let mut progress = sent();
        progress.head(false);
        progress.piece(&Bytes::from_static(b"123456789"));
        assert_eq!(progress.spent(&OK, None, WORST), 51 + 3);
        progress.piece(&Bytes::from(vec![b'x'; 1000]));
        assert_eq!(progress.spent(&OK, None, WORST), 51 + 20);
    }

    #[test]
    fn only_the_last_attempt_counts() {
        let mut progress = sent();
        progress.head(false);
        progress.piece(&Bytes::from_static(b"12345678"));
        progress.attempt();
        assert_eq!(progress.spent(&Outcome::ClientLeft, None, WORST), 51);
    }
}
