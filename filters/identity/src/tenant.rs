//! Tenants: who pays, and what the operator set for them.

use std::sync::Arc;

use dgx_gateway_filter::budget::{Budget, BudgetLimit, BudgetMode, MAX_BUDGETS, TenantBudgets, Window};
use dgx_gateway_filter::facts::TenantLimits;
use dgx_gateway_filter::tenant_config::{Level, Process};
use rust_decimal::Decimal;

use crate::defaults;
use crate::yaml::{Node, Reader, Section};

/// Tenant of the implicit tokens.
pub const DEFAULT_TENANT: &str = "default";

/// Amounts in files stay below this, so that sums of them fit every integer they are counted in.
const MAX_AMOUNT: u64 = 1_000_000_000_000_000;

/// One tenant of the file.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// Unique id.
    pub id: Arc<str>,
    /// Name for people.
    pub name: Option<String>,
    /// The operator's level of the tenant configuration.
    pub defaults: Arc<Level>,
    /// Budgets, all of which hold.
    pub budgets: Arc<TenantBudgets>,
    /// Limits over all tokens of the tenant.
    pub limits: Arc<TenantLimits>,
}

impl Tenant {
    /// A tenant of which only the id is known.
    pub(crate) fn named(id: &str) -> Self {
        Self { id: id.into(), name: None, defaults: Arc::default(), budgets: Arc::default(), limits: Arc::default() }
    }

    pub(crate) fn read(node: Node, process: &Process, reader: &mut Reader<'_>) -> Option<Self> {
        let mut section = node.section(reader)?;
        let id = section.required("id", reader).and_then(|node| record_id(&node, reader));
        let name = section.optional("name").and_then(|node| node.text(reader));
        let defaults = section.optional("defaults").and_then(|node| defaults::read(node, process, reader));
        let budgets = section.optional("budgets").and_then(|node| budgets(node, reader));
        let limits = section.optional("limits").and_then(|node| limits(node, reader));
        section.finish(reader);
        Some(Self {
            id: id?,
            name,
            defaults: defaults.map(Arc::new).unwrap_or_default(),
            budgets: Arc::new(TenantBudgets(budgets.unwrap_or_default())),
            limits: limits.map(Arc::new).unwrap_or_default(),
        })
    }
}

fn limits(node: Node, reader: &mut Reader<'_>) -> Option<TenantLimits> {
    let mut section = node.section(reader)?;
    let tokens = section.optional("tokens_per_minute").and_then(|node| node.number(reader, 0, MAX_AMOUNT));
    let in_flight = section.optional("max_in_flight").and_then(|node| node.number(reader, 0, 1_000_000));
    let weight = section.optional("weight").and_then(|node| node.number(reader, 1, 1000));
    section.finish(reader);
    Some(TenantLimits { tokens_per_minute: tokens, max_in_flight: in_flight, weight: weight.unwrap_or(1) })
}

fn budgets(node: Node, reader: &mut Reader<'_>) -> Option<Vec<Budget>> {
    let path = node.path.clone();
    let budgets = node.list_of(reader, budget)?;
    if budgets.len() > MAX_BUDGETS {
        reader.problem(&path, format_args!("has {} entries, at most {MAX_BUDGETS} are allowed", budgets.len()));
    }
    for (index, budget) in budgets.iter().enumerate() {
        if budgets.iter().take(index).any(|earlier| earlier.id == budget.id) {
            reader.problem(format!("{path}[{index}].id"), format_args!("{} is the id of an earlier budget", budget.id));
        }
    }
    Some(budgets)
}

fn budget(node: Node, reader: &mut Reader<'_>) -> Option<Budget> {
    let mut section = node.section(reader)?;
    let id = section.required("id", reader).and_then(|node| record_id(&node, reader));
    let models = section.required("models", reader).and_then(|node| globs(node, reader));
    let window = section.required("window", reader);
    let window = window.and_then(|node| node.text_as(reader, "hour, day or month", window_of));
    let mode = section.required("mode", reader);
    let mode = mode.and_then(|node| node.text_as(reader, "hard or warn", mode_of));
    let limit = budget_limit(&mut section, reader);
    section.finish(reader);
    Some(Budget { id: id?, models: models?, window: window?, limit: limit?, mode: mode? })
}

fn budget_limit(section: &mut Section, reader: &mut Reader<'_>) -> Option<BudgetLimit> {
    let eur = section.optional("limit_eur");
    let tokens = section.optional("limit_tokens");
    let requests = section.optional("limit_requests");
    match (eur, tokens, requests) {
        (Some(eur), None, None) => eur.decimal(reader, Decimal::ZERO, MAX_AMOUNT.into()).map(BudgetLimit::Eur),
        (None, Some(tokens), None) => tokens.number(reader, 0, MAX_AMOUNT).map(BudgetLimit::Tokens),
        (None, None, Some(requests)) => requests.number(reader, 0, MAX_AMOUNT).map(BudgetLimit::Requests),
        _ => {
            let key = section.path_of("limit_eur");
            reader.problem(key, "set exactly one of limit_eur, limit_tokens and limit_requests");
            None
        }
    }
}

fn window_of(word: &str) -> Option<Window> {
    match word {
        "day" => Some(Window::Day),
        "hour" => Some(Window::Hour),
        "month" => Some(Window::Month),
        _ => None,
    }
}

fn mode_of(word: &str) -> Option<BudgetMode> {
    match word {
        "hard" => Some(BudgetMode::Hard),
        "warn" => Some(BudgetMode::Warn),
        _ => None,
    }
}

/// Id of a tenant, token or budget. It names files and metrics, so it is a short, safe word.
pub(crate) fn record_id(node: &Node, reader: &mut Reader<'_>) -> Option<Arc<str>> {
    let expected = "1 to 64 letters, digits, dots, hyphens and underscores, beginning with a letter or digit";
    node.text_as(reader, expected, |text| {
        let safe = text.len() <= 64
            && text.starts_with(|first: char| first.is_ascii_alphanumeric())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        safe.then(|| text.into())
    })
}

/// Globs of slugs; `*` stands for any characters, everything else for itself.
pub(crate) fn globs(node: Node, reader: &mut Reader<'_>) -> Option<Arc<[String]>> {
    node.list_of(reader, |node, reader| glob(&node, reader)).map(Into::into)
}

fn glob(node: &Node, reader: &mut Reader<'_>) -> Option<String> {
    node.text_as(reader, "a word of at most 256 visible characters", |text| {
        let visible = !text.is_empty() && text.len() <= 256 && text.bytes().all(|byte| byte.is_ascii_graphic());
        visible.then(|| text.to_owned())
    })
}
