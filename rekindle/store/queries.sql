-- Every statement the store runs, by name: a line `-- name --` begins one; `store/sql.py` reads this file.
-- One dialect for SQLite and PostgreSQL; where they will differ, two named queries stand side by side.

-- add_secret --
INSERT INTO secret (name, value) VALUES (:name, :value)

-- secret --
SELECT value FROM secret WHERE name = :name

-- add_account --
INSERT INTO account (id, name, created_at_ms) VALUES (:id, :name, :now_ms) ON CONFLICT (id) DO NOTHING

-- accounts --
SELECT id FROM account ORDER BY id

-- add_access_key --
INSERT INTO access_key (key_id, secret, account, name, created_at_ms)
VALUES (:key_id, :secret, :account, :name, :now_ms)

-- access_key --
SELECT key_id, secret, account FROM access_key WHERE key_id = :key_id

-- access_keys --
SELECT key_id, secret, account FROM access_key ORDER BY created_at_ms, key_id

-- client_token --
SELECT digest, subject FROM client_token
WHERE account = :account AND region = :region AND operation = :operation AND token = :token

-- add_client_token --
INSERT INTO client_token (account, region, operation, token, digest, subject)
VALUES (:account, :region, :operation, :token, :digest, :subject)

-- forget_client_tokens --
DELETE FROM client_token WHERE subject = :subject

-- add_image --
-- No row means that the name is taken in this account and region.
INSERT INTO image (arn, id, account, region, name, state, created_at_ms, updated_at_ms,
    latest_active_version, latest_failed_version, tags)
VALUES (:arn, :id, :account, :region, :name, :state, :created_at_ms, :updated_at_ms,
    :latest_active_version, :latest_failed_version, :tags)
ON CONFLICT DO NOTHING

-- image --
SELECT * FROM image WHERE arn = :arn

-- images --
SELECT * FROM image
WHERE account = :account AND region = :region AND arn > :after
    AND (:name_contains IS NULL OR instr(name, :name_contains) > 0)
ORDER BY arn LIMIT :limit

-- finish_image --
-- A build ended: CREATING and UPDATING become what the caller says, any other state (DELETING) stays.
UPDATE image SET
    state = CASE state WHEN 'CREATING' THEN :created WHEN 'UPDATING' THEN :updated ELSE state END,
    latest_active_version = COALESCE(:active, latest_active_version),
    latest_failed_version = COALESCE(:failed, latest_failed_version),
    updated_at_ms = :now_ms
WHERE arn = :arn

-- delete_image --
DELETE FROM image WHERE arn = :arn

-- add_version --
INSERT INTO version (image_arn, number, version, account, region, node, state, status, revision, request,
    base_image_version, artifact_uri, memory_mib, vcpus, environment, hooks, os_capabilities_all, egress,
    created_at_ms, updated_at_ms, state_reason, folder)
VALUES (:image_arn, :number, :version, :account, :region, :node, :state, :status, :revision, :request,
    :base_image_version, :artifact_uri, :memory_mib, :vcpus, :environment, :hooks, :os_capabilities_all, :egress,
    :created_at_ms, :updated_at_ms, :state_reason, :folder)

-- version --
SELECT * FROM version WHERE image_arn = :image_arn AND version = :version

-- versions --
SELECT * FROM version WHERE image_arn = :image_arn AND (:below IS NULL OR number < :below)
ORDER BY number DESC LIMIT :limit

-- newest_active_version --
SELECT * FROM version WHERE image_arn = :image_arn AND state = 'SUCCESSFUL' AND status = 'ACTIVE'
ORDER BY number DESC LIMIT 1

-- versions_owing --
SELECT * FROM version WHERE state IN ('PENDING', 'IN_PROGRESS') ORDER BY created_at_ms, image_arn, number

-- version_folders --
SELECT folder FROM version WHERE folder IS NOT NULL

-- update_version --
-- Compare-and-swap: no row means that someone else moved it first.
UPDATE version SET state = :state, status = :status, state_reason = :state_reason, folder = :folder,
    updated_at_ms = :updated_at_ms, revision = revision + 1
WHERE image_arn = :image_arn AND version = :version AND revision = :revision AND state IN ('PENDING', 'IN_PROGRESS')
RETURNING *

-- delete_versions --
DELETE FROM version WHERE image_arn = :image_arn

-- add_build --
INSERT INTO build (id, image_arn, version, state, architecture, chipset, chipset_generation, created_at_ms,
    state_reason, memory_snapshot_bytes, disk_snapshot_bytes, code_install_bytes)
VALUES (:id, :image_arn, :version, :state, :architecture, :chipset, :chipset_generation, :created_at_ms,
    :state_reason, :memory_snapshot_bytes, :disk_snapshot_bytes, :code_install_bytes)

-- build --
SELECT * FROM build WHERE id = :id

-- builds --
SELECT * FROM build
WHERE image_arn = :image_arn AND version = :version AND id > :after
    AND (:architecture IS NULL OR architecture = :architecture)
    AND (:chipset IS NULL OR chipset = :chipset)
    AND (:chipset_generation IS NULL OR chipset_generation = :chipset_generation)
ORDER BY id LIMIT :limit

-- update_builds --
UPDATE build SET state = :state, state_reason = :state_reason, memory_snapshot_bytes = :memory_snapshot_bytes,
    disk_snapshot_bytes = :disk_snapshot_bytes, code_install_bytes = :code_install_bytes
WHERE image_arn = :image_arn AND version = :version

-- delete_builds --
DELETE FROM build WHERE image_arn = :image_arn

-- add_microvm --
INSERT INTO microvm (id, account, region, node, phase, revision, generation, image_arn, image_version, endpoint_id,
    endpoint_port, memory_mib, vcpus, max_idle_s, suspended_s, auto_resume, max_duration_s, ingress, egress,
    started_at_ms, execution_role_arn, logging, run_hook_payload, suspended_at_ms, terminated_at_ms, state_reason,
    snapshot, handle)
VALUES (:id, :account, :region, :node, :phase, :revision, :generation, :image_arn, :image_version, :endpoint_id,
    :endpoint_port, :memory_mib, :vcpus, :max_idle_s, :suspended_s, :auto_resume, :max_duration_s, :ingress, :egress,
    :started_at_ms, :execution_role_arn, :logging, :run_hook_payload, :suspended_at_ms, :terminated_at_ms,
    :state_reason, :snapshot, :handle)

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

-- terminated_before --
SELECT id FROM microvm WHERE phase = 'TERMINATED' AND terminated_at_ms < :before_ms

-- forget_microvm --
DELETE FROM microvm WHERE id = :id AND phase = 'TERMINATED'

-- add_event --
INSERT INTO event (subject, at_ms, what, why, detail) VALUES (:subject, :at_ms, :what, :why, :detail)

-- events --
-- The newest `limit` events, oldest first.
SELECT * FROM (SELECT * FROM event WHERE subject = :subject ORDER BY id DESC LIMIT :limit) AS newest ORDER BY id

-- forget_events --
DELETE FROM event WHERE subject = :subject

-- invariant_live_microvms_share_no_port --
SELECT node, endpoint_port FROM microvm WHERE phase <> 'TERMINATED' AND endpoint_port <> 0
GROUP BY node, endpoint_port HAVING count(*) > 1

-- invariant_terminated_means_an_end --
SELECT id, phase, terminated_at_ms, state_reason FROM microvm
WHERE (phase = 'TERMINATED') <> (terminated_at_ms IS NOT NULL) OR (phase = 'TERMINATED' AND state_reason IS NULL)

-- invariant_a_sleeper_knows_since_when --
SELECT id, phase, suspended_at_ms FROM microvm
WHERE (phase IN ('SUSPENDED', 'RESUMING') AND suspended_at_ms IS NULL)
    OR (phase IN ('PENDING', 'RUNNING') AND suspended_at_ms IS NOT NULL)

-- invariant_live_microvms_have_their_version --
SELECT id FROM microvm WHERE phase <> 'TERMINATED' AND NOT EXISTS (
    SELECT 1 FROM version WHERE version.image_arn = microvm.image_arn AND version.version = microvm.image_version
        AND version.account = microvm.account AND version.state = 'SUCCESSFUL')

-- invariant_successful_versions_have_a_folder --
SELECT image_arn, version, state FROM version WHERE (state = 'SUCCESSFUL') <> (folder IS NOT NULL)

-- invariant_active_versions_are_successful --
SELECT image_arn, version, state FROM version WHERE status = 'ACTIVE' AND state <> 'SUCCESSFUL'

-- invariant_builds_follow_their_version --
SELECT build.id FROM build JOIN version ON version.image_arn = build.image_arn AND version.version = build.version
WHERE build.state <> version.state AND version.state IN ('PENDING', 'IN_PROGRESS', 'SUCCESSFUL', 'FAILED')

-- invariant_images_name_versions_they_have --
SELECT arn FROM image WHERE latest_active_version IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM version WHERE version.image_arn = image.arn AND version.version = image.latest_active_version)
