-- microVMs. `-- name --` begins a statement; store/sql.py reads this folder.

-- add_microvm --
INSERT INTO microvm (id, account, region, node, phase, revision, generation, image_arn, image_version, endpoint_id,
    endpoint_port, memory_mib, vcpus, max_idle_s, suspended_s, auto_resume, max_duration_s, ingress, egress,
    started_at_ms, execution_role_arn, logging, run_hook_payload, suspended_at_ms, terminated_at_ms, state_reason,
    snapshot, handle, kms_key)
VALUES (:id, :account, :region, :node, :phase, :revision, :generation, :image_arn, :image_version, :endpoint_id,
    :endpoint_port, :memory_mib, :vcpus, :max_idle_s, :suspended_s, :auto_resume, :max_duration_s, :ingress, :egress,
    :started_at_ms, :execution_role_arn, :logging, :run_hook_payload, :suspended_at_ms, :terminated_at_ms,
    :state_reason, :snapshot, :handle, :kms_key)

-- microvm --
SELECT * FROM microvm WHERE id = :id

-- microvms --
SELECT * FROM microvm
WHERE account = :account AND region = :region
    AND (:image_arn IS NULL OR image_arn = :image_arn)
    AND (:image_version IS NULL OR image_version = :image_version)
    AND (:after_ms IS NULL OR (started_at_ms, id) < (:after_ms, :after_id))
ORDER BY started_at_ms DESC, id DESC LIMIT :limit

-- live_microvms --
SELECT * FROM microvm WHERE node = :node AND phase <> 'TERMINATED' ORDER BY started_at_ms, id

-- count_live_of_image --
SELECT count(*) AS count FROM microvm WHERE image_arn = :image_arn AND phase <> 'TERMINATED'

-- count_live_of_version --
SELECT count(*) AS count FROM microvm
WHERE image_arn = :image_arn AND image_version = :image_version AND phase <> 'TERMINATED'

-- used_ports --
SELECT endpoint_port FROM microvm
WHERE node = :node AND (terminated_at_ms IS NULL OR terminated_at_ms > :freed_before_ms)

-- update_microvm --
-- Compare-and-swap on phase and revision: no row means that someone else moved it first.
UPDATE microvm SET phase = :phase, revision = revision + 1, generation = :generation, endpoint_port = :endpoint_port,
    suspended_at_ms = :suspended_at_ms, terminated_at_ms = :terminated_at_ms, state_reason = :state_reason,
    snapshot = :snapshot, handle = :handle
WHERE id = :id AND phase = :from_phase AND revision = :from_revision
RETURNING *

-- lose_process --
UPDATE microvm SET handle = NULL WHERE id = :id

-- terminated_before --
SELECT id FROM microvm WHERE phase = 'TERMINATED' AND terminated_at_ms < :before_ms

-- forget_microvm --
DELETE FROM microvm WHERE id = :id AND phase = 'TERMINATED'

-- boot --
SELECT boot_id FROM node WHERE name = :name

-- set_boot --
INSERT INTO node (name, boot_id) VALUES (:name, :boot_id) ON CONFLICT (name) DO UPDATE SET boot_id = :boot_id
