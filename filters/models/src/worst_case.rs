//! The most that a call may use: for limits that reserve before a call what it may cost.

use dgx_gateway_filter::Rope;
use dgx_gateway_filter::facts::WorstCase;
use dgx_gateway_wire::request::{Member, patch};

/// Tokens that are written at most when neither the client nor its token nor the model says how many.
const UNBOUNDED_OUTPUT: u64 = 4096;

/// What bounds the answer to one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Output {
    /// Effective `max_tokens`: as it is sent to the backend that allows most.
    pub max_tokens: Option<u64>,
    /// Most the model writes.
    pub model_ceiling: Option<u32>,
    /// Answers that were asked for.
    pub choices: u64,
}

impl Output {
    fn tokens(self) -> u64 {
        let each = self.max_tokens.or(self.model_ceiling.map(u64::from)).unwrap_or(UNBOUNDED_OUTPUT);
        each.saturating_mul(self.choices.max(1))
    }
}

/// The worst case of a call; without an output for an answer without written tokens.
pub(crate) fn of(body: &Rope, output: Option<Output>, images: u64) -> WorstCase {
    WorstCase { input_bytes: body.len() as u64, output_tokens: output.map_or(0, Output::tokens), images }
}

/// The member `n`, 1 when it is absent or makes no sense: then the backend refuses it.
pub(crate) fn choices(n: Option<&Member>, body: &Rope) -> u64 {
    n.and_then(|member| patch::read_integer(body, member).ok()).and_then(|n| u64::try_from(n).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_rule_of_the_contract() {
        let body = Rope::from(bytes::Bytes::from_static(b"12345"));
        for (max_tokens, model_ceiling, choices, tokens) in [
            (Some(10), Some(99), 1, 10),
            (Some(10), Some(99), 3, 30),
            (None, Some(99), 2, 198),
            (None, None, 1, 4096),
            (None, None, 0, 4096),
            (Some(u64::MAX), None, 2, u64::MAX),
        ] {
            let worst = of(&body, Some(Output { max_tokens, model_ceiling, choices }), 0);
            assert_eq!((worst.input_tokens(), worst.output_tokens), (3, tokens));
        }
        assert_eq!((of(&body, None, 2).tokens(), of(&body, None, 2).images), (3, 2));
    }
}
