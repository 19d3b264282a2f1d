//! Budgets of tenants: what calls hold and have used, by slug and by hour, day and month of UTC.
//!
//! What is kept says nothing of budgets: calls reserve and settle under their slug, in all windows at once, and a
//! budget is a question over that. So a budget that a reload changes, adds or removes is right at once, and calls that
//! are in flight at that moment count in it. One lock per tenant makes a reservation hold on all budgets or on none.
//!
//! | Module | Holds |
//! |---|---|
//! | `window` | hours, days and months of UTC |
//! | `limit` | units, limits, what fits |
//! | `usage` | what the calls of one tenant hold and have used |
//! | `tenant` | the same behind a lock; reservations that settle themselves |
//! | `service` | all tenants with budgets, from generation to generation |
//! | `filter` | the filter kind `limits-budgets` |
//! | `gauge` | how much of each budget is used |
//! | `prices` | the check that a limit in euros can hold |
//! | `shared` | budgets that several processes share |

mod filter;
mod gauge;
mod limit;
mod prices;
mod service;
mod shared;
mod tenant;
#[cfg(test)]
mod tests;
mod usage;
mod window;

pub use self::filter::{Budgets, BudgetsConfig};
pub use self::prices::unpriced_budgets;
pub use self::service::{BudgetService, NoSettings, TenantsWithBudgets};
pub(crate) use self::shared::{BudgetLine, BudgetReply, BudgetScript, BudgetStep};
