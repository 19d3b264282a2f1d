//! Money: what turns the cost of an upstream into an amount for a tenant. Decimal arithmetic only.

use std::sync::Arc;

use rust_decimal::Decimal;

/// What turns dollars of an upstream into an amount for a tenant. A fact of the request: those of its start count,
/// whatever changes meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Euros per US dollar.
    pub rate: Decimal,
    /// Where the rate comes from, such as `ecb-2026-05-15`.
    pub rate_source: Arc<str>,
    /// Share that is added for the exchange, such as 0.05.
    pub fx_markup: Decimal,
    /// Factor of the tenant.
    pub factor: Decimal,
}

/// A model at a backend that may serve a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallTarget {
    /// Internal id of the backend, for price tables. Never shown to callers.
    pub backend_id: Arc<str>,
    /// Name of the model at the backend.
    pub upstream_model: Arc<str>,
    /// Whether the backend is one of ours, so that a call costs nothing unless a price says so.
    pub local: bool,
}

/// What a call that has ended counts against budgets: the numbers of its row in the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Billed euros, whole cents.
    pub eur: Decimal,
    /// Tokens in both directions.
    pub tokens: u64,
}
