-- Policies of keys, client tokens that expire, image versions after the first, keys of microVMs, network connectors.
-- A version of an image is never numbered like an earlier one, not even when that is gone: `image.last_number`.

ALTER TABLE access_key ADD COLUMN policy TEXT;

ALTER TABLE image ADD COLUMN last_number INTEGER NOT NULL DEFAULT 1;

ALTER TABLE microvm ADD COLUMN kms_key TEXT;

-- Tokens from before have no age: they are forgotten.
DROP TABLE client_token;

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

-- What quotas count is found in an index alone.
DROP INDEX microvm_node;
CREATE INDEX microvm_node ON microvm (node, phase, memory_mib);
CREATE INDEX microvm_live ON microvm (account, memory_mib, phase) WHERE phase <> 'TERMINATED';
CREATE INDEX version_owing ON version (account, state) WHERE state IN ('PENDING', 'IN_PROGRESS');
CREATE INDEX version_deleting ON version (updated_at_ms) WHERE state = 'DELETING';
