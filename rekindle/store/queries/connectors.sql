-- VPC network connectors. `-- name --` begins a statement; store/sql.py reads this folder.

-- add_connector --
-- No row means that the name is taken in this account and region.
INSERT INTO connector (id, arn, account, region, name, state, state_reason, number, configuration, operator_role, tags,
    created_at_ms, updated_at_ms, last_update_status, last_update_reason)
VALUES (:id, :arn, :account, :region, :name, :state, :state_reason, :number, :configuration, :operator_role, :tags,
    :created_at_ms, :updated_at_ms, :last_update_status, :last_update_reason)
ON CONFLICT DO NOTHING

-- connector --
SELECT * FROM connector WHERE arn = :arn

-- connector_by_id_or_name --
-- An id before a name that looks like it.
SELECT * FROM connector
WHERE account = :account AND region = :region AND (id = :identifier OR name = :identifier)
ORDER BY id <> :identifier LIMIT 1

-- connectors --
SELECT * FROM connector
WHERE account = :account AND region = :region AND name > :after AND (:state IS NULL OR state = :state)
ORDER BY name LIMIT :limit

-- connectors_owing --
SELECT * FROM connector WHERE state IN ('PENDING', 'DELETING') OR last_update_status = 'InProgress'
ORDER BY created_at_ms, id

-- move_connector --
UPDATE connector SET state = :state, last_update_status = :last_update_status, last_update_reason = :last_update_reason
WHERE id = :id

-- change_connector --
UPDATE connector SET number = :number, configuration = :configuration, operator_role = :operator_role,
    updated_at_ms = :updated_at_ms
WHERE id = :id

-- connector_user --
-- One microVM that is not over, or image version, whose connectors hold the text `written`.
SELECT 'MicroVM ' || id AS name FROM microvm
WHERE account = :account AND region = :region AND phase <> 'TERMINATED' AND instr(egress, :written) > 0
UNION ALL
SELECT 'MicroVM image ' || image_arn || ' version ' || version FROM version
WHERE account = :account AND region = :region AND instr(egress, :written) > 0
LIMIT 1

-- delete_connector --
DELETE FROM connector WHERE id = :id

-- add_connector_version --
INSERT INTO connector_version (connector, number, configuration, operator_role, created_at_ms)
VALUES (:connector, :number, :configuration, :operator_role, :created_at_ms)

-- connector_version --
SELECT * FROM connector_version WHERE connector = :connector AND number = :number

-- connector_versions --
SELECT * FROM connector_version WHERE connector = :connector ORDER BY number DESC

-- delete_connector_version --
DELETE FROM connector_version WHERE connector = :connector AND number = :number

-- delete_connector_versions --
DELETE FROM connector_version WHERE connector = :connector
