//! Tenants: who pays, and what the operator set for them.

use std::sync::Arc;

use dgx_gateway_filter::facts::TenantLimits;
use rust_decimal::Decimal;

use crate::defaults::{TenantDefaults, globs};
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
    pub defaults: TenantDefaults,
    /// Budgets, all of which hold.
    pub budgets: Vec<Budget>,
    /// Limits over all tokens of the tenant.
    pub limits: Arc<TenantLimits>,
}

/// What may be used up within a window.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Id, unique within the tenant.
    pub id: Arc<str>,
    /// Globs of the slugs that count.
    pub models: Arc<[String]>,
    /// Window in UTC.
    pub window: Window,
    /// The limit; 0 refuses everything.
    pub limit: BudgetLimit,
    /// What happens when it is used up.
    pub mode: BudgetMode,
}

/// Window of a budget, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

impl Tenant {
    /// A tenant of which only the id is known.
    pub(crate) fn named(id: &str) -> Self {
        Self {
            id: id.into(),
            name: None,
            defaults: TenantDefaults::default(),
            budgets: Vec::new(),
            limits: Arc::default(),
        }
    }

    pub(crate) fn read(node: Node, reader: &mut Reader<'_>) -> Option<Self> {
        let mut section = node.section(reader)?;
        let id = section.required("id", reader).and_then(|node| record_id(&node, reader));
        let name = section.optional("name").and_then(|node| node.text(reader));
        let defaults = section.optional("defaults").and_then(|node| TenantDefaults::read(node, reader));
        let budgets = section.optional("budgets").and_then(|node| budgets(node, reader));
        let limits = section.optional("limits").and_then(|node| limits(node, reader));
        section.finish(reader);
        Some(Self {
            id: id?,
            name,
            defaults: defaults.unwrap_or_default(),
            budgets: budgets.unwrap_or_default(),
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
    let budgets = node.list_of(reader, Budget::read)?;
    for (index, budget) in budgets.iter().enumerate() {
        if budgets.iter().take(index).any(|earlier| earlier.id == budget.id) {
            reader.problem(format!("{path}[{index}].id"), format_args!("{} is the id of an earlier budget", budget.id));
        }
    }
    Some(budgets)
}

impl Budget {
    fn read(node: Node, reader: &mut Reader<'_>) -> Option<Self> {
        let mut section = node.section(reader)?;
        let id = section.required("id", reader).and_then(|node| record_id(&node, reader));
        let models = section.required("models", reader).and_then(|node| globs(node, reader));
        let window = section.required("window", reader);
        let window = window.and_then(|node| node.text_as(reader, "hour, day or month", Window::parse));
        let mode = section.required("mode", reader);
        let mode = mode.and_then(|node| node.text_as(reader, "hard or warn", BudgetMode::parse));
        let limit = BudgetLimit::read(&mut section, reader);
        section.finish(reader);
        Some(Self { id: id?, models: models?, window: window?, limit: limit?, mode: mode? })
    }
}

impl BudgetLimit {
    fn read(section: &mut Section, reader: &mut Reader<'_>) -> Option<Self> {
        let eur = section.optional("limit_eur");
        let tokens = section.optional("limit_tokens");
        let requests = section.optional("limit_requests");
        match (eur, tokens, requests) {
            (Some(eur), None, None) => eur.decimal(reader, Decimal::ZERO, MAX_AMOUNT.into()).map(Self::Eur),
            (None, Some(tokens), None) => tokens.number(reader, 0, MAX_AMOUNT).map(Self::Tokens),
            (None, None, Some(requests)) => requests.number(reader, 0, MAX_AMOUNT).map(Self::Requests),
            _ => {
                let key = section.path_of("limit_eur");
                reader.problem(key, "set exactly one of limit_eur, limit_tokens and limit_requests");
                None
            }
        }
    }
}

impl Window {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "day" => Some(Self::Day),
            "hour" => Some(Self::Hour),
            "month" => Some(Self::Month),
            _ => None,
        }
    }
}

impl BudgetMode {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "hard" => Some(Self::Hard),
            "warn" => Some(Self::Warn),
            _ => None,
        }
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
