//! What the calls of one tenant hold and have used. Pure: no clock, no lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use dgx_gateway_filter::budget::{Amounts, Budget, BudgetMode, MAX_BUDGETS, TenantBudgets, Window};
use dgx_gateway_filter::glob;

use super::limit::{Unit, fits, units};
use super::window::{Period, WINDOWS};

/// Periods of one window that are kept: a clock that is set back over an edge finds what it counted before.
const KEPT_PERIODS: usize = 3;

/// A call that wants to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) slug: &'a Arc<str>,
    pub(crate) alias: &'a Arc<str>,
    /// The most that it may use; it holds that much.
    pub(crate) worst: Amounts,
    /// Whether the most that it may cost is known.
    pub(crate) priced: bool,
    /// Second of Unix time.
    pub(crate) at: i64,
}

impl<'a> Call<'a> {
    /// The call of a ticket, when its budgets are looked for again.
    pub(crate) fn of(ticket: &'a Ticket) -> Self {
        let [at, ..] = ticket.starts;
        Self { slug: &ticket.slug, alias: &ticket.alias, worst: ticket.worst, priced: true, at }
    }
}

/// What is held against the limits: those of the file, or the share of one of several processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share(pub(crate) u32);

impl Share {
    pub(crate) const ALL: Self = Self(1);

    pub(crate) fn of(self, limit: u64) -> u64 {
        limit / u64::from(self.0.max(1))
    }
}

/// What the budgets say to a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// A hard budget has too little left, until the end of its period.
    pub(crate) refused_until: Option<i64>,
    /// Budgets of mode `warn` that have too little left, one bit each.
    pub(crate) exceeded: u64,
    /// Whether a hard budget counts the call.
    pub(crate) hard: bool,
}

/// What has to be known to settle a call.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) slug: Arc<str>,
    pub(crate) alias: Arc<str>,
    pub(crate) worst: Amounts,
    /// Starts of the periods that it counts in, in the order of [`WINDOWS`].
    pub(crate) starts: [i64; 3],
}

/// The calls of one tenant, by window, period and slug.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    /// The budgets that [`Slug::budgets`] was made from.
    pub(crate) budgets: Arc<TenantBudgets>,
    slugs: Vec<Slug>,
    by_name: HashMap<Arc<str>, usize>,
    /// By window, in the order of [`WINDOWS`], and by start.
    windows: [BTreeMap<i64, Kept>; 3],
}

#[derive(Debug)]
struct Slug {
    slug: Arc<str>,
    alias: Arc<str>,
    /// The budgets that count it, one bit each.
    budgets: u64,
}

#[derive(Debug)]
struct Kept {
    period: Period,
    /// By position of the slug.
    rows: Vec<Row>,
    /// Calls that have not ended.
    open: usize,
}

/// What the calls to one slug hold and have used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) used: Amounts,
    pub(crate) reserved: Amounts,
}

impl Usage {
    /// Puts the budgets of a file in place. Nothing happens when they are there already.
    pub(crate) fn adopt(&mut self, budgets: &Arc<TenantBudgets>) {
        if Arc::ptr_eq(&self.budgets, budgets) {
            return;
        }
        self.budgets = Arc::clone(budgets);
        self.forget_idle_slugs();
        for slug in &mut self.slugs {
            slug.budgets = matching(budgets, &slug.slug, &slug.alias);
        }
    }

    /// The budgets that count a call, one bit each.
    pub(crate) fn counting(&mut self, call: &Call<'_>) -> u64 {
        let slug = self.position(call.slug, call.alias);
        self.slugs.get(slug).map_or(0, |slug| slug.budgets)
    }

    /// Asks all budgets, and reserves nothing.
    pub(crate) fn ask(&mut self, call: &Call<'_>, share: Share) -> Answer {
        let counting = self.counting(call);
        let budgets = Arc::clone(&self.budgets);
        let mut answer = Answer::default();
        for (index, budget) in each(&budgets, counting) {
            let (unit, limit) = units(budget.limit);
            let period = self.period(budget.window, call.at);
            let (used, reserved) = self.taken(index, unit, budget.window, period.start);
            let taken = used.saturating_add(reserved);
            let known = unit != Unit::Cents || call.priced;
            let hard = budget.mode == BudgetMode::Hard;
            answer.hard |= hard;
            match (known && fits(share.of(limit), taken, unit.of(call.worst)), hard) {
                (true, _) => {}
                (false, true) => answer.refused_until = answer.refused_until.max(Some(period.end)),
                (false, false) => answer.exceeded |= 1 << index,
            }
        }
        answer
    }

    /// Holds what a call may use, in all windows.
    pub(crate) fn reserve(&mut self, call: &Call<'_>) -> Ticket {
        let slug = self.position(call.slug, call.alias);
        let starts = WINDOWS.map(|window| {
            let kept = self.keep(window, call.at);
            kept.open += 1;
            kept.change(slug, |row| row.reserved = row.reserved.plus(call.worst));
            kept.period.start
        });
        Ticket { slug: Arc::clone(call.slug), alias: Arc::clone(call.alias), worst: call.worst, starts }
    }

    /// Ends a call: what it held is free, and what it used is used, in the periods in which it began.
    pub(crate) fn settle(&mut self, ticket: &Ticket, used: Amounts) {
        let slug = self.position(&ticket.slug, &ticket.alias);
        for (periods, start) in self.windows.iter_mut().zip(ticket.starts) {
            // a period is kept for as long as a call is open in it
            let Some(kept) = periods.get_mut(&start) else { continue };
            kept.open = kept.open.saturating_sub(1);
            kept.change(slug, |row| {
                row.reserved = row.reserved.minus(ticket.worst);
                row.used = row.used.plus(used);
            });
        }
    }

    /// Adds what was used before this process began.
    pub(crate) fn seed(&mut self, window: Window, at: i64, slug: &Arc<str>, alias: &Arc<str>, used: Amounts) {
        let slug = self.position(slug, alias);
        self.keep(window, at).change(slug, |row| row.used = row.used.plus(used));
    }

    /// Used and reserved of a budget in one of its periods.
    pub(crate) fn taken(&self, index: usize, unit: Unit, window: Window, start: i64) -> (u64, u64) {
        let rows = self.of(window).get(&start).map_or(&[][..], |kept| &kept.rows);
        let counted = self.slugs.iter().zip(rows).filter(|(slug, _)| slug.budgets & (1 << index) != 0);
        counted.fold((0, 0), |(used, reserved), (_, row)| {
            (used.saturating_add(unit.of(row.used)), reserved.saturating_add(unit.of(row.reserved)))
        })
    }

    /// The period of a moment.
    pub(crate) fn period(&self, window: Window, at: i64) -> Period {
        let known = self.of(window).range(..=at).next_back().map(|(_, kept)| kept.period);
        known.filter(|period| period.contains(at)).unwrap_or_else(|| Period::at(window, at))
    }

    /// Whether no call has begun that has not ended.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.windows.iter().flat_map(BTreeMap::values).all(|kept| kept.open == 0)
    }

    /// What all calls together hold and have used in the period of a moment.
    #[cfg(test)]
    pub(crate) fn total(&self, window: Window, at: i64) -> Row {
        let start = self.period(window, at).start;
        let rows = self.of(window).get(&start).map_or(&[][..], |kept| &kept.rows);
        rows.iter().fold(Row::default(), |sum, row| Row {
            used: sum.used.plus(row.used),
            reserved: sum.reserved.plus(row.reserved),
        })
    }

    /// Periods that are kept and slugs that are known.
    #[cfg(test)]
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.windows.iter().map(BTreeMap::len).sum(), self.slugs.len())
    }

    fn of(&self, window: Window) -> &BTreeMap<i64, Kept> {
        let [hour, day, month] = &self.windows;
        match window {
            Window::Hour => hour,
            Window::Day => day,
            Window::Month => month,
        }
    }

    fn position(&mut self, slug: &Arc<str>, alias: &Arc<str>) -> usize {
        let known = self.by_name.get(slug).copied();
        if let Some(at) = known
            && self.slugs.get(at).is_some_and(|known| known.alias == *alias)
        {
            return at;
        }
        // a slug that stands for another model now is another slug; what it used before keeps its old alias
        let earlier = self.slugs.iter().position(|known| known.slug == *slug && known.alias == *alias);
        let at = earlier.unwrap_or_else(|| {
            let budgets = matching(&self.budgets, slug, alias);
            self.slugs.push(Slug { slug: Arc::clone(slug), alias: Arc::clone(alias), budgets });
            self.slugs.len() - 1
        });
        self.by_name.insert(Arc::clone(slug), at);
        at
    }

    /// The period of a moment, which is kept from now on.
    fn keep(&mut self, window: Window, at: i64) -> &mut Kept {
        let period = self.period(window, at);
        let [hour, day, month] = &mut self.windows;
        let periods = match window {
            Window::Hour => hour,
            Window::Day => day,
            Window::Month => month,
        };
        if !periods.contains_key(&period.start) {
            while periods.len() >= KEPT_PERIODS
                && let Some(oldest) = periods.iter().find(|(_, kept)| kept.open == 0).map(|(start, _)| *start)
            {
                periods.remove(&oldest);
            }
        }
        periods.entry(period.start).or_insert_with(|| Kept { period, rows: Vec::new(), open: 0 })
    }

    /// Forgets slugs of which no period knows anything any more, so that names of catalogs long gone do not gather.
    fn forget_idle_slugs(&mut self) {
        let known: Vec<bool> = (0..self.slugs.len())
            .map(|at| {
                let mut rows = self.windows.iter().flat_map(BTreeMap::values).filter_map(|kept| kept.rows.get(at));
                rows.any(|row| *row != Row::default())
            })
            .collect();
        for kept in self.windows.iter_mut().flat_map(BTreeMap::values_mut) {
            let mut known = known.iter();
            kept.rows.retain(|_| known.next().copied().unwrap_or_default());
        }
        let mut known = known.iter();
        self.slugs.retain(|_| known.next().copied().unwrap_or_default());
        self.by_name = self.slugs.iter().enumerate().map(|(at, slug)| (Arc::clone(&slug.slug), at)).collect();
    }
}

impl Kept {
    fn change(&mut self, slug: usize, change: impl FnOnce(&mut Row)) {
        if self.rows.len() <= slug {
            self.rows.resize(slug + 1, Row::default());
        }
        if let Some(row) = self.rows.get_mut(slug) {
            change(row);
        }
    }
}

/// Budgets whose globs match a slug or its base alias, one bit each.
fn matching(budgets: &TenantBudgets, slug: &str, alias: &str) -> u64 {
    let concerns = |budget: &Budget| {
        budget.models.iter().any(|pattern| glob::matches(pattern, slug) || glob::matches(pattern, alias))
    };
    let bits = budgets.0.iter().take(MAX_BUDGETS).enumerate().filter(|(_, budget)| concerns(budget));
    bits.fold(0, |bits, (index, _)| bits | 1 << index)
}

/// The budgets of some bits.
pub(crate) fn each(budgets: &TenantBudgets, bits: u64) -> impl Iterator<Item = (usize, &Budget)> {
    budgets.0.iter().take(MAX_BUDGETS).enumerate().filter(move |(index, _)| bits & (1 << index) != 0)
}
