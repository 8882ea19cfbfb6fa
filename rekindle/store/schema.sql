-- The whole schema as it is today. `migrations/` must lead to exactly this (tests/store/test_schema.py).
-- Times are UTC epoch milliseconds; JSON columns hold what no query looks into.

CREATE TABLE secret (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL
);

CREATE TABLE account (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL
);

CREATE TABLE access_key (
    key_id TEXT PRIMARY KEY,
    secret TEXT NOT NULL,
    account TEXT NOT NULL REFERENCES account (id),
    name TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    policy TEXT
);

CREATE TABLE client_token (
    account TEXT NOT NULL REFERENCES account (id),
    region TEXT NOT NULL,
    operation TEXT NOT NULL,
    token TEXT NOT NULL,
    digest TEXT NOT NULL,
    subject TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (account, region, operation, token)
);

CREATE INDEX client_token_subject ON client_token (subject);

CREATE TABLE image (
    arn TEXT PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    account TEXT NOT NULL REFERENCES account (id),
    region TEXT NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    latest_active_version TEXT,
    latest_failed_version TEXT,
    tags TEXT,
    last_number INTEGER NOT NULL DEFAULT 1,
    UNIQUE (account, region, name)
);

CREATE TABLE version (
    image_arn TEXT NOT NULL REFERENCES image (arn),
    number INTEGER NOT NULL,
    version TEXT NOT NULL,
    account TEXT NOT NULL REFERENCES account (id),
    region TEXT NOT NULL,
    node TEXT NOT NULL,
    state TEXT NOT NULL,
    status TEXT NOT NULL,
    revision INTEGER NOT NULL,
    request TEXT NOT NULL,
    base_image_version TEXT NOT NULL,
    artifact_uri TEXT NOT NULL,
    memory_mib INTEGER NOT NULL,
    vcpus INTEGER NOT NULL,
    environment TEXT NOT NULL,
    hooks TEXT,
    os_capabilities_all INTEGER NOT NULL,
    egress TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    state_reason TEXT,
    folder TEXT,
    PRIMARY KEY (image_arn, version)
);

CREATE INDEX version_owing ON version (account, state) WHERE state IN ('PENDING', 'IN_PROGRESS');
CREATE INDEX version_deleting ON version (updated_at_ms) WHERE state = 'DELETING';

CREATE TABLE build (
    id TEXT PRIMARY KEY,
    image_arn TEXT NOT NULL,
    version TEXT NOT NULL,
    state TEXT NOT NULL,
    architecture TEXT NOT NULL,
    chipset TEXT NOT NULL,
    chipset_generation TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    state_reason TEXT,
    memory_snapshot_bytes INTEGER,
    disk_snapshot_bytes INTEGER,
    code_install_bytes INTEGER,
    FOREIGN KEY (image_arn, version) REFERENCES version (image_arn, version)
);

CREATE INDEX build_version ON build (image_arn, version);

CREATE TABLE microvm (
    id TEXT PRIMARY KEY,
    account TEXT NOT NULL REFERENCES account (id),
    region TEXT NOT NULL,
    node TEXT NOT NULL,
    phase TEXT NOT NULL,
    revision INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    image_arn TEXT NOT NULL,
    image_version TEXT NOT NULL,
    endpoint_id TEXT NOT NULL UNIQUE,
    endpoint_port INTEGER NOT NULL,
    memory_mib INTEGER NOT NULL,
    vcpus INTEGER NOT NULL,
    max_idle_s INTEGER,
    suspended_s INTEGER,
    auto_resume INTEGER,
    max_duration_s INTEGER NOT NULL,
    ingress TEXT NOT NULL,
    egress TEXT NOT NULL,
    started_at_ms INTEGER NOT NULL,
    execution_role_arn TEXT,
    logging TEXT,
    run_hook_payload TEXT,
    suspended_at_ms INTEGER,
    terminated_at_ms INTEGER,
    state_reason TEXT,
    snapshot INTEGER,
    handle TEXT,
    kms_key TEXT
);

CREATE INDEX microvm_account ON microvm (account, region, started_at_ms, id);
CREATE INDEX microvm_node ON microvm (node, phase, memory_mib);
CREATE INDEX microvm_image ON microvm (image_arn);
CREATE INDEX microvm_live ON microvm (account, memory_mib, phase) WHERE phase <> 'TERMINATED';

CREATE TABLE connector (
    id TEXT PRIMARY KEY,
    arn TEXT NOT NULL UNIQUE,
    account TEXT NOT NULL REFERENCES account (id),
    region TEXT NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    state_reason TEXT,
    number INTEGER NOT NULL,
    configuration TEXT NOT NULL,
    operator_role TEXT NOT NULL,
    tags TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    last_update_status TEXT,
    last_update_reason TEXT,
    UNIQUE (account, region, name)
);

-- What the node has to look at; the same words as the query `connectors_owing`.
CREATE INDEX connector_owing ON connector (created_at_ms, id)
WHERE state IN ('PENDING', 'DELETING') OR last_update_status = 'InProgress';

CREATE TABLE connector_version (
    connector TEXT NOT NULL REFERENCES connector (id),
    number INTEGER NOT NULL,
    configuration TEXT NOT NULL,
    operator_role TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (connector, number)
);

-- Append-only: a story goes whole, behind its microVM's row, or when `ended` has kept it long enough.
CREATE TABLE event (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    subject TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    what TEXT NOT NULL,
    why TEXT,
    by_whom TEXT NOT NULL,
    detail TEXT NOT NULL
);

CREATE INDEX event_subject ON event (subject, id);

-- Images and connectors whose rows are gone and whose stories are still told.
CREATE TABLE ended (
    subject TEXT PRIMARY KEY,
    at_ms INTEGER NOT NULL
);

CREATE TRIGGER event_is_never_changed BEFORE UPDATE ON event
BEGIN
    SELECT RAISE(ABORT, 'events are never changed');
END;

CREATE TRIGGER event_stays_with_its_subject BEFORE DELETE ON event
WHEN EXISTS (SELECT 1 FROM microvm WHERE id = OLD.subject) OR EXISTS (SELECT 1 FROM image WHERE arn = OLD.subject)
    OR EXISTS (SELECT 1 FROM connector WHERE arn = OLD.subject) OR EXISTS (SELECT 1 FROM ended WHERE subject = OLD.subject)
BEGIN
    SELECT RAISE(ABORT, 'events stay as long as what they tell of');
END;

-- The boot of a machine in which its rows were last true.
CREATE TABLE node (
    name TEXT PRIMARY KEY,
    boot_id TEXT NOT NULL
);
