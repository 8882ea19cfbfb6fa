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
SELECT image_arn, version, state FROM version
WHERE (state = 'SUCCESSFUL' AND folder IS NULL) OR (state NOT IN ('SUCCESSFUL', 'DELETING') AND folder IS NOT NULL)

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

-- invariant_images_know_their_latest_versions --
SELECT arn, latest_active_version, latest_failed_version FROM image
WHERE COALESCE(latest_active_version, '') <> COALESCE((SELECT version FROM version WHERE image_arn = image.arn
        AND state = 'SUCCESSFUL' AND status = 'ACTIVE' ORDER BY number DESC LIMIT 1), '')
    OR COALESCE(latest_failed_version, '') <> COALESCE((SELECT version FROM version WHERE image_arn = image.arn
        AND state = 'FAILED' ORDER BY number DESC LIMIT 1), '')

-- invariant_no_version_number_is_ahead_of_its_image --
SELECT image_arn, number, last_number FROM version JOIN image ON image.arn = version.image_arn
WHERE number > last_number OR version.version <> number || '.0'

-- invariant_images_that_change_say_what --
SELECT arn, state FROM image WHERE (state IN ('CREATING', 'UPDATING', 'DELETING')) <> EXISTS (
    SELECT 1 FROM version WHERE image_arn = image.arn AND state IN ('PENDING', 'IN_PROGRESS', 'DELETING'))

-- invariant_one_version_of_an_image_changes_at_a_time --
SELECT image_arn FROM version JOIN image ON image.arn = version.image_arn
WHERE image.state <> 'DELETING' AND version.state IN ('PENDING', 'IN_PROGRESS', 'DELETING')
GROUP BY image_arn HAVING count(*) > 1

-- invariant_an_image_that_goes_has_only_versions_that_go --
SELECT image_arn, version, version.state FROM version JOIN image ON image.arn = version.image_arn
WHERE image.state = 'DELETING' AND version.state <> 'DELETING'
