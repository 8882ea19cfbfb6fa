-- Stories. `-- name --` begins a statement; store/sql.py reads this folder.

-- add_event --
INSERT INTO event (subject, at_ms, what, why, by_whom, detail)
VALUES (:subject, :at_ms, :what, :why, :by_whom, :detail)

-- events --
-- The newest `limit` events, oldest first.
SELECT * FROM (SELECT * FROM event WHERE subject = :subject ORDER BY id DESC LIMIT :limit) AS newest ORDER BY id

-- all_events --
SELECT * FROM (SELECT * FROM event ORDER BY id DESC LIMIT :limit) AS newest ORDER BY id

-- events_after --
SELECT * FROM event WHERE subject = :subject AND id > :after AND at_ms >= :since_ms ORDER BY id LIMIT :limit

-- all_events_after --
SELECT * FROM event WHERE id > :after AND at_ms >= :since_ms ORDER BY id LIMIT :limit

-- began_running --
-- When a microVM last began to run; no row before it ever did.
SELECT at_ms FROM event WHERE subject = :subject AND what LIKE '% -> RUNNING' ORDER BY id DESC LIMIT 1

-- forget_events --
DELETE FROM event WHERE subject = :subject

-- add_ended --
INSERT INTO ended (subject, at_ms) VALUES (:subject, :at_ms) ON CONFLICT (subject) DO UPDATE SET at_ms = :at_ms

-- ended_before --
SELECT subject FROM ended WHERE at_ms < :before_ms

-- forget_ended --
DELETE FROM ended WHERE subject = :subject
