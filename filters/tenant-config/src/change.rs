//! One change, carried out inside its transaction: what was there before, and whether rules between keys hold, is asked
//! where nobody else can write.

use std::sync::{Arc, Mutex, PoisonError};

use dgx_gateway_filter::RequestInfo;
use dgx_gateway_filter::audit::{Audit, AuditEvent, AuditRecord, ConfigAction};
use dgx_gateway_filter::facts::{Caller, Principal};
use dgx_gateway_filter::tenant_config::{Cascade, Level, Process, TenantKey, Value, Wrong};
use dgx_gateway_store::rusqlite::{self, Connection};
use dgx_gateway_store::{Group, Keep, StoreError, Wait};

use crate::config::Tenancy;
use crate::entry::Shown;
use crate::rows::{self, Mark, OwnLevel};
use crate::shared::refresh;

/// Keys that a rule holds together. Removing a value is always possible.
const OVERLAPPING: [TenantKey; 2] = [TenantKey::RagChunkOverlap, TenantKey::RagChunkTokens];

/// What shall change.
pub(crate) struct Change {
    pub author: Arc<Author>,
    /// New values; `None` removes the value of the tenant.
    pub edits: Vec<(TenantKey, Option<Value>)>,
    /// Milliseconds of UTC.
    pub at: i64,
}

/// Who changes something.
pub(crate) struct Author {
    pub request: RequestInfo,
    pub caller: Option<Arc<Caller>>,
    pub principal: Arc<Principal>,
}

/// A key whose value has changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    pub key: TenantKey,
    /// The tenant has none of its own any more.
    pub removed: bool,
    /// The value that counted before.
    pub old: Value,
    /// The value that counts now.
    pub new: Value,
}

/// What came of a change.
#[derive(Debug)]
pub(crate) struct Done {
    pub changed: Vec<Changed>,
    /// What the tenant has set now.
    pub own: OwnLevel,
}

/// Why nothing was changed.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The values would not go together.
    Rule(Wrong),
    /// The database.
    Store(StoreError),
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

struct Job {
    change: Change,
    yaml: Arc<Level>,
    process: Arc<Process>,
}

/// Carries changes out.
#[derive(Clone)]
pub(crate) struct Changes {
    pub tenancy: Arc<Tenancy>,
    /// Who records them, if anybody does.
    pub audit: Option<Arc<dyn Audit>>,
}

impl Changes {
    /// Carries a change out. When it returns the change is on the disk, and holds for every request that begins.
    ///
    /// # Cancel safety
    /// A change that was begun is carried out and recorded all the same: it belongs to a task of its own.
    pub(crate) async fn carry_out(&self, change: Change) -> Result<Done, Failed> {
        let own = self.clone();
        let task = tokio::spawn(async move { own.commit(change).await });
        task.await.unwrap_or(Err(Failed::Store(StoreError::Closed)))
    }

    async fn commit(self, change: Change) -> Result<Done, Failed> {
        let Self { tenancy, audit } = &self;
        let slot = tenancy.shared.store.slot().await?;
        let author = Arc::clone(&change.author);
        let yaml = tenancy.levels(&author.principal.tenant_id).map(|(_, yaml)| Arc::clone(yaml)).unwrap_or_default();
        let job = Job { change, yaml, process: Arc::clone(&tenancy.process) };
        let outcome = Arc::new(Mutex::new(None));
        let told = Arc::clone(&outcome);
        let work = Box::new(move |group: &Group<'_>| {
            let done = job.run(group)?;
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
            Ok(())
        });
        slot.write(Wait::Now, Keep::Never, work).committed().await?;
        let done = outcome.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or(StoreError::Closed)?;
        let done = done.map_err(Failed::Rule)?;
        for changed in &done.changed {
            record(&author, changed, audit.as_deref());
        }
        if !done.changed.is_empty() {
            refresh(&tenancy.shared).await?;
        }
        Ok(done)
    }
}

fn record(author: &Author, changed: &Changed, audit: Option<&dyn Audit>) {
    let Author { request, caller, principal } = author;
    let key = changed.key.about().name;
    let action = if changed.removed { ConfigAction::Delete } else { ConfigAction::Put };
    tracing::info!(
        tenant.id = &*principal.tenant_id,
        token.id = &*principal.token_id,
        request.id = &*request.id,
        config.key = key,
        config.action = action.as_str(),
        "tenant configuration changed"
    );
    let Some(audit) = audit else { return };
    let (old, new) = (Shown(&changed.old).to_string(), Shown(&changed.new).to_string());
    let event = AuditEvent::Config { action, key, old: Some(&old), new: Some(&new) };
    audit.record(&AuditRecord::of_request(request, caller.as_deref(), Some(principal), event));
}

impl Job {
    /// May run more than once, each time from the start.
    fn run(&self, connection: &Connection) -> rusqlite::Result<Result<Done, Wrong>> {
        let Change { author, edits, at } = &self.change;
        let Principal { tenant_id: tenant, token_id, .. } = &*author.principal;
        let mark = Mark { at: *at, by: Arc::clone(token_id) };
        let before = rows::of_tenant(connection, tenant, self.process.limits)?;
        let mut own = before.clone();
        for (key, value) in edits {
            match value {
                // the same value again is no change, and stays the one of whoever set it
                Some(value) if before.values.get(key) == Some(value) => {}
                Some(value) => own.set(*key, value.clone(), mark.clone()),
                None => own.remove(*key),
            }
        }
        let (then, now) = (self.cascade(&before), self.cascade(&own));
        if let Err(wrong) = now.check_overlap()
            && edits.iter().any(|(key, value)| value.is_some() && OVERLAPPING.contains(key))
        {
            return Ok(Err(wrong));
        }
        let mut changed = Vec::new();
        for (key, _) in edits {
            let value = own.values.get(key);
            if value == before.values.get(key) {
                continue;
            }
            rows::write(connection, tenant, *key, value.zip(own.marks.get(key)))?;
            changed.push(Changed {
                key: *key,
                removed: value.is_none(),
                old: then.value(*key).0.clone(),
                new: now.value(*key).0.clone(),
            });
        }
        if !changed.is_empty() {
            rows::tell(connection, tenant)?;
        }
        Ok(Ok(Done { changed, own }))
    }

    fn cascade<'a>(&'a self, own: &'a OwnLevel) -> Cascade<'a> {
        Cascade { db: &own.values, yaml: &self.yaml, process: &self.process }
    }
}
