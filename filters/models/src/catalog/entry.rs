//! One step of a route, with what is known of it right now.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dgx_gateway_filter::money::CallTarget;

use crate::backend::{Backend, Domain};

/// Connect failures in a row after which an entry is skipped.
const FAILURES_BEFORE_SKIP: u32 = 3;
/// How long it is skipped then.
const SKIP: Duration = Duration::from_secs(10);
/// Longest time for which a `Retry-After` of an upstream is honoured.
const LONGEST_SKIP: Duration = Duration::from_secs(60);

/// One step of a route.
#[derive(Debug)]
pub struct Entry {
    /// The backend.
    pub backend: Arc<Backend>,
    /// Whether it is tried; if not, it is only listed.
    pub enabled: bool,
    /// Name of the model there.
    pub model: Arc<str>,
    /// Base alias of the model that lists it; differs from that of the request on composite routes.
    pub alias: Arc<str>,
    /// Floor of `max_tokens` of that model.
    pub floor: Option<u32>,
    /// Number format of the weights.
    pub quantization: Option<Arc<str>>,
    /// Entries of one group are one choice.
    pub group: Option<u32>,
    /// Context length there, as configured.
    pub configured_window: Option<u64>,
    /// What happened to it lately.
    pub history: Arc<History>,
}

impl Entry {
    /// A call that this step of the route makes.
    pub(crate) fn as_target(&self) -> CallTarget {
        CallTarget {
            backend_id: Arc::clone(&self.backend.id),
            upstream_model: Arc::clone(&self.model),
            local: self.backend.domain == Domain::Local,
        }
    }

    /// Context length there, in tokens: as configured, else as the backend publishes it.
    #[must_use]
    pub fn max_model_len(&self) -> Option<u64> {
        self.configured_window
            .or_else(|| Some(self.history.published_window.load(Ordering::Relaxed)).filter(|length| *length > 0))
    }
}

/// What happened to an entry lately.
#[derive(Debug)]
pub struct History {
    /// Tokens; 0: not known.
    published_window: AtomicU64,
    failures: AtomicU32,
    /// Its last attempt failed.
    fails: AtomicBool,
    /// Milliseconds after `epoch` until which it is skipped.
    skip_until: AtomicU64,
    epoch: Instant,
}

impl Default for History {
    fn default() -> Self {
        Self {
            published_window: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            fails: AtomicBool::new(false),
            skip_until: AtomicU64::new(0),
            epoch: Instant::now(),
        }
    }
}

impl History {
    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }

    fn skip(&self, until: Instant) {
        self.skip_until.fetch_max(self.millis(until), Ordering::Relaxed);
    }

    /// The backend publishes this context length.
    pub fn publish_window(&self, length: u64) {
        self.published_window.store(length, Ordering::Relaxed);
    }

    /// Whether it is to be left alone for now.
    #[must_use]
    pub fn skipped(&self, now: Instant) -> bool {
        self.skip_until.load(Ordering::Relaxed) > self.millis(now)
    }

    /// It could not be reached. Three times in a row, and it is skipped for a while.
    pub fn unreachable(&self, now: Instant) {
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES_BEFORE_SKIP {
            self.skip(now + SKIP);
        }
    }

    /// Its last attempt failed, or did not.
    pub(crate) fn set_fails(&self, fails: bool) {
        // mostly nothing changes, and then the line stays with all processors
        if self.fails.load(Ordering::Relaxed) != fails {
            self.fails.store(fails, Ordering::Relaxed);
        }
    }

    pub(crate) fn fails(&self) -> bool {
        self.fails.load(Ordering::Relaxed)
    }

    /// It was reached.
    pub fn reached(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// It asked to be left alone.
    pub fn rest(&self, now: Instant, wait: Duration) {
        self.skip(now + wait.min(LONGEST_SKIP));
    }
}

/// Numbers entries that are in order: those of one group that follow each other, and are equally well off, are one
/// choice. `rests` says which are to be left alone for now.
pub(crate) fn choices(entries: &[Arc<Entry>], rests: impl Fn(&Entry) -> bool) -> Vec<usize> {
    let key = |entry: &Entry| (rests(entry), entry.backend.is_up());
    let alike =
        |a: &Entry, b: &Entry| a.group.is_some() && (a.group, &a.alias) == (b.group, &b.alias) && key(a) == key(b);
    let mut choice = 0;
    let mut before: Option<&Arc<Entry>> = None;
    let number = |entry| {
        if before.replace(entry).is_some_and(|before| !alike(before, entry)) {
            choice += 1;
        }
        choice
    };
    entries.iter().map(number).collect()
}

/// The order in which entries are tried: as routed, within a group the least loaded first; those that rest or are
/// down come last.
pub(crate) fn ordered(entries: Vec<Arc<Entry>>, rests: impl Fn(&Entry) -> bool) -> Vec<Arc<Entry>> {
    let place = |index: usize, entry: &Entry| match entry.group {
        Some(group) => {
            // the members of a composite number their groups without knowing of each other
            let is_of_group = |other: &Arc<Entry>| other.group == Some(group) && other.alias == entry.alias;
            (entries.iter().position(is_of_group).unwrap_or(index), entry.backend.in_flight())
        }
        None => (index, 0),
    };
    let mut keyed: Vec<_> = entries
        .iter()
        .enumerate()
        .map(|(index, entry)| ((rests(entry), !entry.backend.is_up(), place(index, entry)), Arc::clone(entry)))
        .collect();
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, entry)| entry).collect()
}
