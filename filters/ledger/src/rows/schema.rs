//! The tables. A step that was released is never changed.

/// Steps of the schema, oldest first. Checks compare with OR: for a list of three words after IN, SQLite makes a table
/// of its own at every write.
pub(crate) const STEPS: [&str; 6] = [FIRST, PRICED, CALLED, HOURS, BY_MOMENT, FIRST_CALL];

const FIRST: &str = "
CREATE TABLE usage_calls (
    call_id TEXT PRIMARY KEY,
    request_uid TEXT NOT NULL,
    request_id TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    token_id TEXT NOT NULL,
    user_id TEXT,
    model TEXT NOT NULL,
    resolved_model TEXT,
    backend_label TEXT,
    state TEXT NOT NULL CHECK (state IN ('reserved', 'settled')),
    status TEXT CHECK (status = 'ok' OR status = 'aborted' OR status = 'failed'),
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL DEFAULT 0,
    cached_tokens INTEGER NOT NULL DEFAULT 0,
    images INTEGER NOT NULL DEFAULT 0,
    seconds TEXT NOT NULL DEFAULT '0',
    source TEXT,
    upstream_usd TEXT,
    eur_exact TEXT,
    started_at INTEGER NOT NULL,
    settled_at INTEGER,
    instance TEXT NOT NULL,
    CHECK ((state = 'settled') = (status IS NOT NULL AND settled_at IS NOT NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_calls_open ON usage_calls (instance) WHERE state = 'reserved';
CREATE INDEX usage_calls_request ON usage_calls (request_uid);
CREATE TABLE usage_requests (
    request_uid TEXT PRIMARY KEY,
    request_id TEXT NOT NULL,
    parent_request_id TEXT,
    tenant_id TEXT NOT NULL,
    token_id TEXT NOT NULL,
    user_id TEXT,
    model TEXT NOT NULL,
    source TEXT NOT NULL,
    available INTEGER NOT NULL,
    billed_eur TEXT NOT NULL,
    billed_usd TEXT NOT NULL,
    upstream_usd TEXT NOT NULL,
    rate TEXT NOT NULL,
    rate_source TEXT NOT NULL,
    fx_markup TEXT NOT NULL,
    cost_markup_factor TEXT NOT NULL,
    settled_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_requests_time ON usage_requests (tenant_id, settled_at);
";

/// Tokens written into a cache; and what a call is priced by when nobody is left who knows: the model that is tried
/// first, and the terms of the request.
const PRICED: &str = "
ALTER TABLE usage_calls ADD COLUMN cache_write_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage_calls ADD COLUMN backend_id TEXT;
ALTER TABLE usage_calls ADD COLUMN upstream_model TEXT;
ALTER TABLE usage_calls ADD COLUMN local INTEGER;
ALTER TABLE usage_calls ADD COLUMN began INTEGER;
ALTER TABLE usage_calls ADD COLUMN rate TEXT;
ALTER TABLE usage_calls ADD COLUMN rate_source TEXT;
ALTER TABLE usage_calls ADD COLUMN fx_markup TEXT;
ALTER TABLE usage_calls ADD COLUMN cost_markup_factor TEXT;
";

/// The request that caused the one of a call.
const CALLED: &str = "
ALTER TABLE usage_calls ADD COLUMN parent_request_id TEXT;
";

/// Sums of requests by hour, for reports. `hour` is its beginning in milliseconds of UTC.
const HOURS: &str = "
CREATE TABLE usage_hours (
    tenant_id TEXT NOT NULL,
    hour INTEGER NOT NULL,
    model TEXT NOT NULL,
    source TEXT NOT NULL,
    requests INTEGER NOT NULL,
    eur_cents INTEGER NOT NULL,
    usd_cents INTEGER NOT NULL,
    upstream_usd TEXT NOT NULL,
    PRIMARY KEY (tenant_id, hour, model, source)
) STRICT, WITHOUT ROWID;
";

/// The base alias of the slug at the time of the call, and a way to the calls of a tenant within a time.
const BY_MOMENT: &str = "
ALTER TABLE usage_calls ADD COLUMN alias TEXT;
CREATE INDEX usage_calls_began ON usage_calls (tenant_id, coalesce(began, started_at));
";

/// Most requests make one call. Its id is the uid of its request, so that it needs no entry in an index to be found by.
const FIRST_CALL: &str = "
DROP INDEX usage_calls_request;
CREATE INDEX usage_calls_request ON usage_calls (request_uid) WHERE request_uid <> call_id;
";
