-- Rules that rows must keep: a query that finds one that does not (`Store.check_invariants`). `-- name --` begins a statement; store/sql.py reads this folder.

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

-- invariant_live_microvms_have_their_connector --
SELECT id, egress FROM microvm WHERE phase <> 'TERMINATED' AND instr(egress, ':network-connector:nc-') > 0
    AND NOT EXISTS (SELECT 1 FROM connector WHERE instr(microvm.egress, connector.arn) > 0)

-- invariant_versions_have_their_connector --
SELECT image_arn, version, egress FROM version WHERE instr(egress, ':network-connector:nc-') > 0
    AND NOT EXISTS (SELECT 1 FROM connector WHERE instr(version.egress, connector.arn) > 0)

-- invariant_connectors_have_their_latest_version --
SELECT id, number FROM connector WHERE NOT EXISTS (
    SELECT 1 FROM connector_version WHERE connector = connector.id AND connector_version.number = connector.number
        AND connector_version.configuration = connector.configuration)

-- invariant_builds_follow_their_version --
SELECT build.id FROM build JOIN version ON version.image_arn = build.image_arn AND version.version = build.version
WHERE build.state <> version.state AND version.state IN ('PENDING', 'IN_PROGRESS', 'SUCCESSFUL', 'FAILED')

-- invariant_images_name_versions_they_have --
SELECT arn FROM image WHERE latest_active_version IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM version WHERE version.image_arn = image.arn AND version.version = image.latest_active_version)
