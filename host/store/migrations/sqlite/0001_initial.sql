-- The first schema. Conventions, also for what follows:
--   * ids are text as people see them; a principal is two columns, its kind and its id;
--   * times are whole microseconds since 1970-01-01T00:00:00Z, so that they compare and sort as numbers;
--   * structured values are JSON text; sealed values are bytes that only the vault can read;
--   * every record has its tenant, where it is not part of another that has it; every table is STRICT, so that
--     a value of another type is refused.
-- A migration that was released is never changed: its checksum is kept in the database.

-- 'Keyw', so that a file of another program is told apart before anything is written to it.
PRAGMA application_id = 1264941431;

-- Which version of the program brought the schema here. A program that is too old for the schema reads
-- this table, so it stays as it is for ever.
CREATE TABLE written_by (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    program_version TEXT NOT NULL
) STRICT;

-- The vault -------------------------------------------------------------------------------------------

CREATE TABLE vault (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    header BLOB NOT NULL,
    row_version INTEGER NOT NULL
) STRICT;

CREATE TABLE tenant_keys (
    tenant TEXT NOT NULL,
    version INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('active', 'decrypt-only')),
    wrapped BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, version)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX one_active_key_per_tenant ON tenant_keys (tenant) WHERE state = 'active';

CREATE TABLE connections (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    owner_kind TEXT,
    owner_id TEXT,
    provider TEXT NOT NULL,
    method TEXT NOT NULL,
    account TEXT,
    granted_scopes TEXT NOT NULL,
    scopes_assumed INTEGER NOT NULL,
    endpoints TEXT NOT NULL,
    -- The state and, where it has one, its reason.
    state TEXT NOT NULL,
    expires_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    row_version INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    -- The tenant key under which `sealed` rests, which is not removed as long as something does.
    key_version INTEGER NOT NULL,
    -- The write-ahead mark of a refresh.
    refresh_id TEXT,
    refresh_token_fingerprint BLOB,
    refresh_started_at INTEGER,
    -- The lease on the refresh. The fence only grows; a lease that was given back ends at 0.
    lease_fence INTEGER NOT NULL DEFAULT 0,
    lease_until INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, id),
    CONSTRAINT connection_name UNIQUE (tenant, name),
    FOREIGN KEY (tenant, key_version) REFERENCES tenant_keys (tenant, version)
) STRICT;

CREATE INDEX connections_by_key ON connections (tenant, key_version);

CREATE TABLE pending_authorizations (
    state_hash BLOB NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL,
    sealed BLOB NOT NULL,
    key_version INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    FOREIGN KEY (tenant, key_version) REFERENCES tenant_keys (tenant, version)
) STRICT;

CREATE INDEX pending_authorizations_by_key ON pending_authorizations (tenant, key_version);

CREATE INDEX pending_authorizations_by_end ON pending_authorizations (expires_at);

-- Plugins ---------------------------------------------------------------------------------------------

CREATE TABLE installed_connectors (
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    digest TEXT NOT NULL,
    manifest TEXT NOT NULL,
    consented_by_kind TEXT NOT NULL,
    consented_by_id TEXT NOT NULL,
    consented_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, name)
) STRICT;

-- The operator's policy as it was last agreed to.
CREATE TABLE operator_policy (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    text TEXT NOT NULL,
    accepted_by_kind TEXT NOT NULL,
    accepted_by_id TEXT NOT NULL,
    accepted_at INTEGER NOT NULL
) STRICT;

-- Runs ------------------------------------------------------------------------------------------------
-- What a run was started with never changes and can be large, what it stands at changes with every
-- step: two tables, so that a step does not write the flow's source again.

CREATE TABLE runs (
    id TEXT NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL,
    principal_kind TEXT NOT NULL,
    principal_id TEXT NOT NULL,
    flow_namespace TEXT NOT NULL,
    flow_name TEXT NOT NULL,
    flow_version TEXT NOT NULL,
    source TEXT NOT NULL,
    input TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX runs_by_tenant ON runs (tenant, created_at, id);

CREATE TABLE run_states (
    run TEXT NOT NULL PRIMARY KEY REFERENCES runs (id) ON DELETE CASCADE,
    phase TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL DEFAULT 0,
    snapshot TEXT,
    output TEXT,
    error TEXT,
    lease_fence INTEGER NOT NULL DEFAULT 0,
    lease_until INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE run_entries (
    run TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    sequence INTEGER NOT NULL,
    at INTEGER NOT NULL,
    event TEXT NOT NULL,
    PRIMARY KEY (run, sequence)
) STRICT, WITHOUT ROWID;

-- Audit -----------------------------------------------------------------------------------------------
-- `record` is the whole record as it was written, byte for byte; the other columns only find it.
-- AUTOINCREMENT, so that a number is never given twice and the order of writing is kept.
-- Each tenant's records are a chain: `number` counts them from 1, and `digest` is the SHA-256 over the digest before,
-- the number and the record, so that nothing can be changed, left out or put in between without a trace.

CREATE TABLE audit_records (
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    principal_kind TEXT NOT NULL,
    principal_id TEXT NOT NULL,
    at INTEGER NOT NULL,
    run TEXT,
    connector TEXT,
    action TEXT,
    connection TEXT,
    denied INTEGER NOT NULL,
    record TEXT NOT NULL,
    number INTEGER NOT NULL CHECK (number > 0),
    digest TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX audit_records_by_tenant ON audit_records (tenant, number);
CREATE INDEX audit_records_by_run ON audit_records (run, number) WHERE run IS NOT NULL;
CREATE INDEX audit_records_by_connection ON audit_records (connection, number) WHERE connection IS NOT NULL;

CREATE TRIGGER audit_records_are_not_changed BEFORE UPDATE ON audit_records
BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END;

CREATE TRIGGER audit_records_are_not_removed BEFORE DELETE ON audit_records
BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END;

-- INSERT OR REPLACE removes the row that it replaces without asking the trigger above.
CREATE TRIGGER audit_records_are_not_replaced BEFORE INSERT ON audit_records
WHEN EXISTS (SELECT 1 FROM audit_records WHERE id = NEW.id OR (tenant = NEW.tenant AND number = NEW.number))
BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END;
