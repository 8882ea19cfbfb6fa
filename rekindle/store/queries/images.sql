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

-- move_image --
-- Compare-and-swap on the state: no row means that someone else moved it first. What is latest follows the versions.
UPDATE image SET state = :state, last_number = last_number + :step, updated_at_ms = :now_ms,
    latest_active_version = (SELECT version FROM version WHERE image_arn = :arn AND state = 'SUCCESSFUL'
        AND status = 'ACTIVE' ORDER BY number DESC LIMIT 1),
    latest_failed_version = (SELECT version FROM version WHERE image_arn = :arn AND state = 'FAILED'
        ORDER BY number DESC LIMIT 1)
WHERE arn = :arn AND state = :from_state
RETURNING *

-- forget_image --
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

-- change_version --
-- Compare-and-swap, of a version whose build is over.
UPDATE version SET state = :state, status = :status, updated_at_ms = :updated_at_ms, revision = revision + 1
WHERE image_arn = :image_arn AND version = :version AND revision = :revision AND state IN ('SUCCESSFUL', 'FAILED')
RETURNING *

-- launchable --
SELECT 1 FROM version JOIN image ON image.arn = version.image_arn
WHERE version.image_arn = :image_arn AND version.version = :version
    AND version.state = 'SUCCESSFUL' AND version.status = 'ACTIVE' AND image.state NOT IN ('DELETING', 'DELETED')

-- count_versions --
SELECT count(*) AS count FROM version WHERE image_arn = :image_arn

-- versions_deleting --
SELECT * FROM version WHERE state = 'DELETING' ORDER BY updated_at_ms, image_arn, number

-- forget_version --
DELETE FROM version WHERE image_arn = :image_arn AND version = :version

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

-- build_ids --
SELECT id FROM build

-- forget_builds --
DELETE FROM build WHERE image_arn = :image_arn AND version = :version
