//! One step on one bucket, which the store carries out as a whole.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Script};
use sha2::{Digest, Sha256};

use crate::bucket::{Key, PARTS_PER_UNIT, Rate, Refused, Taken, Ticket};
use crate::events::LimitKind;

const PARTS_PER_MICRO_UNIT: i128 = 1_000_000;

/// What all keys begin with.
const PREFIX: &str = "dgx-gateway:limits:";

/// The script, by its digest: its text travels only to a server that does not know it yet.
pub(super) struct BucketScript(Script);

/// What is done to a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Units are taken, and may come back.
    Reserve(u64),
    /// A reservation ends; so much was used of it.
    Settle(Ticket, u64),
    /// Units are taken.
    Take(u64),
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) taken: Taken,
    /// For the settlement of a reservation.
    pub(crate) ticket: Ticket,
}

/// An amount as the script counts: units, micro-units, parts.
type Amount = (i64, i64, i64);
/// Admitted or not, level, born, spilled.
type Raw = (i64, i64, i64, i64, u64, i64, i64, i64);

fn parts((units, micro_units, rest): Amount) -> i128 {
    i128::from(units) * PARTS_PER_UNIT + i128::from(micro_units) * PARTS_PER_MICRO_UNIT + i128::from(rest)
}

fn amount(parts: i128) -> [i128; 3] {
    let (units, rest) = (parts.div_euclid(PARTS_PER_UNIT), parts.rem_euclid(PARTS_PER_UNIT));
    [units, rest / PARTS_PER_MICRO_UNIT, rest % PARTS_PER_MICRO_UNIT]
}

impl BucketScript {
    pub(super) fn new() -> Self {
        Self(Script::new(include_str!("bucket.lua")))
    }

    #[cfg(test)]
    pub(super) fn of(text: &str) -> Self {
        Self(Script::new(text))
    }

    /// Carries out one step. The outer result is that of the store, the inner one that of the bucket.
    pub(super) async fn run(
        &self,
        connection: &mut MultiplexedConnection,
        key: &str,
        step: Step,
        rate: Rate,
        more: &[u64],
    ) -> RedisResult<Result<Grant, Refused>> {
        let (whole, micro) = rate.refill();
        let (word, units) = match step {
            Step::Reserve(units) => ("reserve", units),
            Step::Settle(ticket, _) => ("settle", ticket.units),
            Step::Take(units) => ("take", units),
        };
        let mut call = self.0.key(key);
        call.arg(word).arg(rate.capacity()).arg(whole).arg(micro).arg(units);
        if let Step::Settle(ticket, used) = step {
            call.arg(used).arg(ticket.born);
            for number in amount(ticket.spilled) {
                call.arg(number);
            }
        }
        for number in more {
            call.arg(number);
        }
        let (admitted, l0, l1, l2, born, s0, s1, s2): Raw = call.invoke_async(connection).await?;
        let (level, spilled) = (parts((l0, l1, l2)), parts((s0, s1, s2)));
        Ok(if admitted == 1 {
            Ok(Grant { taken: rate.taken(level), ticket: Ticket { units, born, spilled } })
        } else {
            Err(rate.refused(level, units))
        })
    }

    /// Tries whether the script runs and may write, on a bucket that nobody asks for.
    pub(super) async fn probe(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let key = format!("{PREFIX}probe");
        self.run(connection, &key, Step::Take(1), Rate::new(1, 1.0), &[]).await.map(drop)
    }
}

/// Name of a bucket in the store: a digest of the kind and the key, so that neither digests of bearers nor
/// addresses stand there.
pub(super) fn name(kind: LimitKind, key: &Key) -> String {
    use std::fmt::Write as _;
    let digest = Sha256::new().chain_update(kind.label()).chain_update([0]).chain_update(key).finalize();
    let mut name = String::with_capacity(PREFIX.len() + 80);
    name.push_str(PREFIX);
    name.push_str(kind.label());
    name.push(':');
    for byte in digest {
        if write!(name, "{byte:02x}").is_err() {
            break; // a String takes everything
        }
    }
    name
}

/// The longest wait for the answer to one step. A request waits for at most one.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_millis(250);
