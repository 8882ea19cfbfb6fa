-- Stories. `-- name --` begins a statement; store/sql.py reads this folder.

-- add_event --
INSERT INTO event (subject, at_ms, what, why, detail) VALUES (:subject, :at_ms, :what, :why, :detail)

-- events --
-- The newest `limit` events, oldest first.
SELECT * FROM (SELECT * FROM event WHERE subject = :subject ORDER BY id DESC LIMIT :limit) AS newest ORDER BY id

-- forget_events --
DELETE FROM event WHERE subject = :subject
