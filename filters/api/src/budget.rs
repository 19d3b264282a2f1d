//! Budgets of tenants: what may be used up within a window of time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use rust_decimal::Decimal;

use crate::money::CallTarget;

/// Budgets of one tenant, at most [`MAX_BUDGETS`]; all of them hold. A fact of the request, stated with the principal
/// where the tenant has any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantBudgets(pub Vec<Budget>);

/// Budgets of one tenant at most.
pub const MAX_BUDGETS: usize = 64;

/// What may be used up within a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Id, unique within the tenant.
    pub id: Arc<str>,
    /// Globs of the slugs that count; they are held against the slug and against its base alias.
    pub models: Arc<[String]>,
    /// Window in UTC.
    pub window: Window,
    /// The limit; 0 refuses everything.
    pub limit: BudgetLimit,
    /// What happens when it is used up.
    pub mode: BudgetMode,
}

/// Window of a budget, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Window {
    /// A day.
    Day,
    /// An hour.
    Hour,
    /// A calendar month.
    Month,
}

/// What a budget counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetLimit {
    /// Billed amount in EUR.
    Eur(Decimal),
    /// Requests.
    Requests(u64),
    /// Tokens in both directions.
    Tokens(u64),
}

/// What happens when a budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetMode {
    /// Requests are refused.
    Hard,
    /// Requests run, with a warning.
    Warn,
}

/// What calls used, in all units that budgets count. Integers: a billed amount is whole cents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Billed cents of a euro.
    pub cents: u64,
    /// Requests that got something of an answer.
    pub requests: u64,
    /// Tokens in both directions.
    pub tokens: u64,
}

impl Amounts {
    /// Both together; what does not fit any more stays at the most that does.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            cents: self.cents.saturating_add(other.cents),
            requests: self.requests.saturating_add(other.requests),
            tokens: self.tokens.saturating_add(other.tokens),
        }
    }

    /// What is left without the other; never less than nothing.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            cents: self.cents.saturating_sub(other.cents),
            requests: self.requests.saturating_sub(other.requests),
            tokens: self.tokens.saturating_sub(other.tokens),
        }
    }
}

/// States that a request counts against a hard budget, so that its account must not be lost.
#[derive(Clone, Copy, Debug)]
pub struct HeldByHardBudget;

/// The tenants that have budgets. Offered as an `Arc<BudgetsOfTenants>` by the part that knows the tenants.
#[derive(Clone, Debug, Default)]
pub struct BudgetsOfTenants(pub Vec<(Arc<str>, Arc<TenantBudgets>)>);

/// What the calls of a tenant to one slug used within one period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedBySlug {
    /// The slug.
    pub slug: Arc<str>,
    /// Its base alias at that time.
    pub alias: Arc<str>,
    /// What they used.
    pub used: Amounts,
}

/// Knows what was used before this process began. Offered as an `Arc<dyn UsageHistory>` by the part that owns the
/// ledger.
pub trait UsageHistory: Send + Sync {
    /// What the calls of a tenant used that began from `from` on and before `to`, and have ended. Blocks; for the
    /// start of the process and for reloads.
    ///
    /// # Errors
    /// It cannot be read.
    fn used(&self, tenant_id: &str, from: SystemTime, to: SystemTime) -> Result<Vec<UsedBySlug>, HistoryError>;
}

/// The ledger cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("what tenants have used cannot be read: {0}")]
pub struct HistoryError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// The budgets of the tokens file with their places, for checks over several files.
#[derive(Clone, Debug, Default)]
pub struct BudgetsRead(pub Vec<BudgetRead>);

/// A budget and where it stands.
#[derive(Clone, Debug)]
pub struct BudgetRead {
    /// Its tenant.
    pub tenant_id: Arc<str>,
    /// What it says.
    pub budget: Budget,
    /// The file.
    pub file: PathBuf,
    /// Line in it, where known.
    pub line: Option<usize>,
    /// Path of the budget in it.
    pub key: String,
}

/// The slugs of the catalog and where their calls may go, for checks over several files.
#[derive(Clone, Debug, Default)]
pub struct RoutesRead(pub Vec<RouteRead>);

/// A slug and its route.
#[derive(Clone, Debug)]
pub struct RouteRead {
    /// The slug.
    pub slug: Arc<str>,
    /// Its base alias.
    pub alias: Arc<str>,
    /// The tenants that know it; `None`: all.
    pub tenants: Option<Vec<String>>,
    /// Where its calls may go.
    pub targets: Vec<CallTarget>,
}
