//! Names of budgets in the store, and what was stated of them under which token.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use dgx_gateway_filter::budget::{Budget, MAX_BUDGETS, TenantBudgets, Window};
use sha2::{Digest, Sha256};

use crate::budgets::limit::units;

/// What all keys of budgets begin with.
const PREFIX: &str = "dgx-gateway:limits:budget:";

/// What this process has told the store of the budgets of one tenant.
#[derive(Debug, Default)]
pub(in crate::budgets) struct Names {
    /// By position of the budget.
    names: Vec<Arc<str>>,
    /// By name and start of the period.
    stated: HashMap<(Arc<str>, i64), Stated>,
}

/// A statement that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stated {
    pub(super) token: u64,
    /// Connection on which it was made.
    pub(super) generation: u64,
    /// End of the period.
    pub(super) end: i64,
    /// Used by other processes when the store was asked last.
    pub(super) elsewhere: u64,
}

impl Names {
    /// Takes the names of other budgets. What was stated of budgets that are not among them is void: nobody tells the
    /// store of changes to them any more.
    pub(in crate::budgets) fn adopt(&mut self, tenant_id: &str, budgets: &TenantBudgets) {
        self.names = budgets.0.iter().take(MAX_BUDGETS).map(|budget| name(tenant_id, budget)).collect();
        let names = &self.names;
        self.stated.retain(|(name, _), _| names.contains(name));
    }

    /// Used by other processes, as far as is known.
    pub(in crate::budgets) fn elsewhere(&self, index: usize, start: i64) -> u64 {
        self.stated(index, start).map_or(0, |stated| stated.elsewhere)
    }

    pub(super) fn name(&self, index: usize) -> Option<&Arc<str>> {
        self.names.get(index)
    }

    pub(super) fn stated(&self, index: usize, start: i64) -> Option<&Stated> {
        self.stated.get(&(Arc::clone(self.names.get(index)?), start))
    }

    pub(super) fn state(&mut self, name: &Arc<str>, start: i64, stated: Stated) {
        self.stated.insert((Arc::clone(name), start), stated);
    }

    /// Takes note of what other processes used.
    pub(super) fn note(&mut self, name: &Arc<str>, start: i64, elsewhere: u64) {
        if let Some(stated) = self.stated.get_mut(&(Arc::clone(name), start)) {
            stated.elsewhere = elsewhere;
        }
    }

    /// It is not certain that the store knows what this process knows.
    pub(super) fn forget(&mut self, name: &Arc<str>, start: i64) {
        self.stated.remove(&(Arc::clone(name), start));
    }

    pub(super) fn is_stated(&self, name: &Arc<str>, start: i64, token: u64) -> bool {
        self.stated.get(&(Arc::clone(name), start)).is_some_and(|stated| stated.token == token)
    }

    /// Forgets periods that ended before `second`.
    pub(super) fn forget_ended(&mut self, second: i64) {
        self.stated.retain(|_, stated| stated.end > second);
    }
}

/// Name of a budget. Its definition is part of it, not its limit: processes that read another file meanwhile count by
/// themselves, and a limit that is raised holds at once. All budgets of a tenant stand in one slot of a cluster.
fn name(tenant_id: &str, budget: &Budget) -> Arc<str> {
    let window: &[u8] = match budget.window {
        Window::Day => b"day",
        Window::Hour => b"hour",
        Window::Month => b"month",
    };
    let mut digest = Sha256::new();
    let mut add = |part: &[u8]| digest.update([&part.len().to_be_bytes(), part].concat());
    add(budget.id.as_bytes());
    add(window);
    add(units(budget.limit).0.label().as_bytes());
    budget.models.iter().for_each(|glob| add(glob.as_bytes()));
    let mut name = String::with_capacity(PREFIX.len() + 84);
    name.push_str(PREFIX);
    name.push('{');
    push_hex(&mut name, &Sha256::digest(tenant_id), 16);
    name.push_str("}:");
    push_hex(&mut name, &digest.finalize(), 16);
    name.into()
}

fn push_hex(text: &mut String, bytes: &[u8], most: usize) {
    for byte in bytes.iter().take(most) {
        if write!(text, "{byte:02x}").is_err() {
            break; // a String takes everything
        }
    }
}
