-- The index of the store: which blobs make which object. Applied at every start; format changes get a new file name.
CREATE TABLE IF NOT EXISTS bucket (
    name TEXT PRIMARY KEY,
    account TEXT NOT NULL,
    region TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL
) WITHOUT ROWID;

-- `id` names one content of a key: an overwrite is a new id.
CREATE TABLE IF NOT EXISTS object (
    bucket TEXT NOT NULL REFERENCES bucket (name),
    key TEXT NOT NULL,
    id TEXT NOT NULL UNIQUE,
    size_bytes INTEGER NOT NULL,
    etag TEXT NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    headers TEXT NOT NULL,
    checksum TEXT,
    upload TEXT,
    PRIMARY KEY (bucket, key)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS segment (
    object TEXT NOT NULL REFERENCES object (id) DEFERRABLE INITIALLY DEFERRED,
    number INTEGER NOT NULL,
    blob TEXT NOT NULL UNIQUE,
    size_bytes INTEGER NOT NULL,
    PRIMARY KEY (object, number)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS upload (
    id TEXT PRIMARY KEY,
    bucket TEXT NOT NULL REFERENCES bucket (name),
    key TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    headers TEXT NOT NULL,
    algorithm TEXT,
    kind TEXT
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS part (
    upload TEXT NOT NULL REFERENCES upload (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    blob TEXT NOT NULL UNIQUE,
    size_bytes INTEGER NOT NULL,
    etag TEXT NOT NULL,
    checksum TEXT,
    updated_at_ms INTEGER NOT NULL,
    PRIMARY KEY (upload, number)
) WITHOUT ROWID;
