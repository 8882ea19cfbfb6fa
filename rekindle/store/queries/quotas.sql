-- What ceilings count (store/quotas.py). `-- name --` begins a statement; store/sql.py reads this folder.

-- live_of_account --
SELECT count(*) AS count, COALESCE(sum(memory_mib), 0) AS memory_mib FROM microvm
WHERE account = :account AND phase <> 'TERMINATED'

-- awake_memory --
SELECT COALESCE(sum(memory_mib), 0) AS memory_mib FROM microvm
WHERE node = :node AND phase IN ('PENDING', 'RUNNING', 'SUSPENDING', 'RESUMING', 'TERMINATING')

-- count_images --
SELECT count(*) AS count FROM image WHERE account = :account

-- count_all_versions --
SELECT count(*) AS count FROM version WHERE image_arn = :image_arn

-- count_builds_owed --
SELECT count(*) AS count FROM version WHERE account = :account AND state IN ('PENDING', 'IN_PROGRESS')

-- count_connectors --
SELECT count(*) AS count FROM connector WHERE account = :account

-- count_connector_versions --
SELECT count(*) AS count FROM connector_version WHERE connector = :connector
