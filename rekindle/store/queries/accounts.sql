-- Accounts, keys, secrets. `-- name --` begins a statement; store/sql.py reads this folder.

-- add_secret --
INSERT INTO secret (name, value) VALUES (:name, :value)

-- secret --
SELECT value FROM secret WHERE name = :name

-- add_account --
INSERT INTO account (id, name, created_at_ms) VALUES (:id, :name, :now_ms) ON CONFLICT (id) DO NOTHING

-- accounts --
SELECT id, name, created_at_ms FROM account ORDER BY id

-- add_access_key --
INSERT INTO access_key (key_id, secret, account, name, created_at_ms, policy)
VALUES (:key_id, :secret, :account, :name, :created_at_ms, :policy)

-- access_key --
SELECT * FROM access_key WHERE key_id = :key_id

-- access_keys --
SELECT * FROM access_key ORDER BY created_at_ms, key_id

-- remove_access_key --
DELETE FROM access_key WHERE key_id = :key_id
