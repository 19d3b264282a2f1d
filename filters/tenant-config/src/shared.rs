//! What outlives a reload: the database, and the generations that are told of changes.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use dgx_gateway_filter::tenant_config::Limits;
use dgx_gateway_store::rusqlite::Connection;
use dgx_gateway_store::{Store, StoreError};
use tokio::time::MissedTickBehavior;

use crate::config::Tenancy;
use crate::rows::{self, OwnLevel, STEPS};

/// How often a process looks whether another one has changed something.
pub const LOOK: Duration = Duration::from_secs(1);

/// The database and who follows it. Its lock is never taken by a request that uses a value, only by changes, looks
/// and reloads, all of which read from the disk while they hold it.
pub(crate) struct Shared {
    pub store: Arc<Store>,
    followed: Mutex<Followed>,
}

struct Followed {
    reader: Connection,
    /// Version up to which all generations have been told.
    version: i64,
    generations: Vec<Weak<Tenancy>>,
}

type Read<'a> = dyn Fn(&str, Limits) -> Result<OwnLevel, StoreError> + 'a;

impl Shared {
    /// Opens the tables. Blocks.
    pub(crate) fn open(store: Arc<Store>) -> Result<Self, StoreError> {
        store.migrate("tenant-config", &STEPS)?;
        let reader = store.reader()?;
        let version = rows::version(&reader)?;
        Ok(Self { store, followed: Mutex::new(Followed { reader, version, generations: Vec::new() }) })
    }

    /// Builds a generation from what is stored, and tells it of every change from then on. Blocks.
    pub(crate) fn register(
        &self,
        build: impl FnOnce(&Read<'_>) -> Result<Arc<Tenancy>, StoreError>,
    ) -> Result<Arc<Tenancy>, StoreError> {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let Followed { reader, generations, .. } = &mut *followed;
        // a change that comes in between is read here and told once more, which does no harm
        let built = build(&|tenant, limits| Ok(rows::of_tenant(reader, tenant, limits)?))?;
        generations.retain(|generation| generation.strong_count() > 0);
        generations.push(Arc::downgrade(&built));
        Ok(built)
    }

    /// Reads what has changed, whoever changed it, and tells all generations. Blocks.
    pub(crate) fn refresh(&self) -> Result<(), StoreError> {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let Followed { reader, version, generations } = &mut *followed;
        let snapshot = reader.unchecked_transaction()?;
        let now = rows::version(&snapshot)?;
        if now == *version {
            return Ok(());
        }
        let generations: Vec<_> = generations.iter().filter_map(Weak::upgrade).collect();
        for tenant in rows::changed_since(&snapshot, *version)? {
            for generation in generations.iter().filter(|generation| generation.knows(&tenant)) {
                generation.replace(&tenant, rows::of_tenant(&snapshot, &tenant, generation.process.limits)?);
            }
        }
        *version = now;
        Ok(())
    }
}

/// Refreshes on a thread that may block.
pub(crate) async fn refresh(shared: &Arc<Shared>) -> Result<(), StoreError> {
    let shared = Arc::clone(shared);
    tokio::task::spawn_blocking(move || shared.refresh()).await.unwrap_or(Err(StoreError::Closed))
}

/// Looks for changes of other processes, for ever.
///
/// # Cancel safety
/// A look that has begun ends on its own.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        ticks.tick().await;
        let result = refresh(&shared).await;
        if result.is_err() != failing {
            failing = result.is_err();
            match result {
                Err(error) => tracing::error!(%error, "the tenant configuration cannot be read; the last one stays"),
                Ok(()) => tracing::info!("the tenant configuration can be read again"),
            }
        }
    }
}
