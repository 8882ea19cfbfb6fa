-- Images, versions, builds. `-- name --` begins a statement; store/sql.py reads this folder.

-- add_image --
-- No row means that the name is taken in this account and region.
INSERT INTO image (arn, id, account, region, name, state, created_at_ms, updated_at_ms,
    latest_active_version, latest_failed_version, tags, last_number)
VALUES (:arn, :id, :account, :region, :name, :state, :created_at_ms, :updated_at_ms,
    :latest_active_version, :latest_failed_version, :tags, :last_number)
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
