//! Services that filters ask of each other. The traits stand here, because filters never depend on each other.

use std::future::Future;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rust_decimal::Decimal;

pub use crate::audit::{Audit, Pseudonyms, RequestObserver};
use crate::error::FilterError;
use crate::exchange::Outcome;
use crate::facts::{Meter, ModelCall, Principal, TenantLimits, WorstCase};
use crate::money::{CallTarget, Spent, Terms};
use crate::tenant_config::ModelUse;

/// Slows down clients that fail to authenticate. Offered as an `Arc<dyn AuthFailures>` by the part that owns the
/// limits, asked by the part that checks credentials.
pub trait AuthFailures: Send + Sync {
    /// Takes note of one failure of a client on a route; `None` is a client without an address.
    fn note<'a>(&'a self, client: Option<IpAddr>, route: &str) -> Noted<'a>;
}

/// What became of a note: known at once, or once others were asked.
pub enum Noted<'a> {
    /// Known.
    Now(Result<(), NotTolerated>),
    /// To be waited for; safe to drop at every await.
    Later(Pin<Box<dyn Future<Output = Result<(), NotTolerated>> + Send + 'a>>),
}

/// Why a failure to authenticate has another answer than that.
#[derive(Debug)]
pub enum NotTolerated {
    /// It cannot be counted, and the route is closed then; the answer.
    NotCounted(Box<FilterError>),
    /// The client failed too often; the wait until another failure is tolerated.
    TooOften(Duration),
}

/// Knows what a model call costs. Offered as an `Arc<dyn Pricing>` by the part that owns the ledger, asked by the part
/// that tells the client.
pub trait Pricing: Send + Sync {
    /// The terms of a request that begins now, for a tenant with this factor.
    fn terms(&self, factor: Decimal) -> Terms;

    /// What a request with this one call costs, as far as the call has come, in the words of an answer.
    fn bill(&self, terms: &Terms, call: &ModelCall, meter: &Meter) -> ShownCost;

    /// Whether a call has no price before the length of its audio is known.
    fn by_seconds(&self, terms: &Terms, call: &ModelCall) -> bool;

    /// What a call that has ended counts, by the rules of its row in the ledger.
    fn spent(&self, terms: &Terms, call: &ModelCall, meter: &Meter, outcome: &Outcome) -> Spent;

    /// The most that a call to any of these targets costs, in euros, whole cents: what the dearest of them bills when
    /// it reads and writes all that it may. `None` when one of them may cost money and has no price at the moment the
    /// request began. Whether that can happen is known at load: see [`crate::money::PricedModels`].
    ///
    /// Seconds of audio, and images of a model that draws unasked, are not bounded by a request and count nothing here.
    /// Neither does what a backend reports beyond its price.
    fn worst_eur(&self, terms: &Terms, targets: &[CallTarget], worst: WorstCase) -> Option<Decimal>;
}

/// Gives calls their turn at backends that run only so many at the same time. Offered as an `Arc<dyn FairShare>` by
/// the part that owns the limits. The parts that own backends and tenants tell it what holds once their configuration
/// is in use, so that what waits learns of it; requests bring their own share along.
pub trait FairShare: Send + Sync {
    /// These are the backends, by label, with their slots; `None`: no limit.
    fn backends(&self, slots: Vec<(Arc<str>, Option<NonZeroU32>)>);

    /// These are the tenants, with their limits.
    fn tenants(&self, limits: Vec<(Arc<str>, TenantLimits)>);
}

/// A cost as clients are told it. Amounts are decimal text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownCost {
    /// `upstream`, `computed`, `zero`, `cached`, `estimated` or `unknown`.
    pub source: &'static str,
    /// The amounts; `None` when the cost is not known.
    pub amounts: Option<ShownAmounts>,
}

/// The amounts of a cost that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownAmounts {
    /// Euros, two digits behind the point.
    pub eur: String,
    /// US dollars, two digits behind the point.
    pub usd: String,
    /// Euros per US dollar.
    pub exchange_rate: String,
    /// Where the rate comes from, such as `ecb-2026-05-15`.
    pub exchange_rate_source: String,
}

/// Knows the names of models. Offered as an `Arc<dyn ModelNames>` by the part that owns the catalog.
pub trait ModelNames: Send + Sync {
    /// Base aliases of the catalog, in its order: all of them, or those that embed.
    fn aliases(&self, which: Aliases) -> Vec<Arc<str>>;

    /// Whether the tenant of a caller may use a slug for something. What the token itself may use is not asked.
    fn is_usable(&self, slug: &str, caller: &Principal, wanted_for: ModelUse) -> bool;
}

/// Which base aliases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aliases {
    /// All.
    All,
    /// Those of models that embed.
    Embedding,
}
