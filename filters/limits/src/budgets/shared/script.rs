//! Steps on budgets, which the store carries out as a whole.

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisResult, Script};

/// The largest amount that the script counts exactly; larger ones count as this.
const MOST: u64 = (1 << 53) - 1;

/// The script, by its digest.
pub(crate) struct BudgetScript(Script);

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BudgetStep {
    /// Calls hold something.
    Reserve,
    /// Calls have ended.
    Settle,
    /// This process says all that it knows.
    State,
}

/// One budget in a step: its key, and the numbers of the script's head.
#[derive(Debug)]
pub(crate) struct Line {
    pub(super) key: String,
    pub(super) token: String,
    /// What stands between the token and the time to keep.
    pub(super) amounts: Vec<u64>,
    pub(super) keep_ms: u64,
}

/// What a step came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(super) verdict: Verdict,
    /// Per budget: the flag, and what other processes used.
    pub(super) lines: Vec<(bool, u64)>,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All of it.
    Done,
    /// A hard budget has too little left; nothing was done.
    Refused,
    /// This process has to state first, the flagged budgets at least.
    StateFirst,
}

impl BudgetScript {
    pub(crate) fn new() -> Self {
        Self(Script::new(include_str!("budgets.lua")))
    }

    /// Carries out one step.
    pub(crate) async fn run(
        &self,
        connection: &mut MultiplexedConnection,
        step: BudgetStep,
        node: &str,
        lines: &[Line],
    ) -> RedisResult<Reply> {
        let mut call = self.0.prepare_invoke();
        let word = match step {
            BudgetStep::Reserve => "reserve",
            BudgetStep::Settle => "settle",
            BudgetStep::State => "state",
        };
        call.arg(word).arg(node);
        for Line { key, token, amounts, keep_ms } in lines {
            call.key(key).arg(token);
            for amount in amounts {
                call.arg((*amount).min(MOST));
            }
            call.arg(*keep_ms);
        }
        let raw: Vec<u64> = call.invoke_async(connection).await?;
        reply(&raw, lines.len()).ok_or_else(|| (ErrorKind::UnexpectedReturnType, "an answer of another form").into())
    }
}

fn reply(raw: &[u64], budgets: usize) -> Option<Reply> {
    let (code, rest) = raw.split_first()?;
    let verdict = match code {
        0 => Verdict::Refused,
        1 => Verdict::Done,
        _ => Verdict::StateFirst,
    };
    let lines: Vec<(bool, u64)> = rest.as_chunks::<2>().0.iter().map(|[flag, used]| (*flag == 1, *used)).collect();
    (lines.len() == budgets).then_some(Reply { verdict, lines })
}
