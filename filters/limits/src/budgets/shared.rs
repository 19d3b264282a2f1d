//! Budgets that several processes share, in the store of the limits.
//!
//! This process is the master of what its own calls hold and have used: the store keeps the sum of what all say. The
//! first step on a budget *states* all that this process knows of it, under a token; the steps after it are changes to
//! that, and carry the token. Whenever it is not certain that a change has arrived (no answer, a store that was emptied,
//! a full queue), the token is forgotten, and the next step, or a task in the background, states everything again. So
//! nothing is lost or counted twice, however often the store fails.
//!
//! | Module | Holds |
//! |---|---|
//! | `names` | names of budgets in the store, and what was stated under which token |
//! | `script` | the steps, as a script that runs as a whole |
//! | `keeper` | reservations, settlements and statements |

mod keeper;
mod names;
mod script;
#[cfg(test)]
mod tests;

pub(super) use self::keeper::{STEPS, SharedBudgets, node};
pub(super) use self::names::Names;
pub(crate) use self::script::{BudgetScript, BudgetStep, Line as BudgetLine, Reply as BudgetReply};

/// Settlements of calls that were counted in the store.
pub(super) type Settlements = SharedBudgets;
