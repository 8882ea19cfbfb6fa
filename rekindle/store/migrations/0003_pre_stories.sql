-- Stories say by whom, are never rewritten, and outlive the image or connector that they tell of; and the boot of the
-- machine that the rows were last true for.

ALTER TABLE event RENAME TO event_before;

CREATE TABLE event (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    subject TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    what TEXT NOT NULL,
    why TEXT,
    by_whom TEXT NOT NULL,
    detail TEXT NOT NULL
);

-- Who caused the events from before was not written down.
INSERT INTO event (id, subject, at_ms, what, why, by_whom, detail)
SELECT id, subject, at_ms, what, why, 'unknown', detail FROM event_before;

DROP TABLE event_before;

CREATE INDEX event_subject ON event (subject, id);

CREATE TABLE ended (
    subject TEXT PRIMARY KEY,
    at_ms INTEGER NOT NULL
);

CREATE TRIGGER event_is_never_changed BEFORE UPDATE ON event
BEGIN
    SELECT RAISE(ABORT, 'events are never changed');
END;

CREATE TRIGGER event_stays_with_its_subject BEFORE DELETE ON event
WHEN EXISTS (SELECT 1 FROM microvm WHERE id = OLD.subject) OR EXISTS (SELECT 1 FROM image WHERE arn = OLD.subject)
    OR EXISTS (SELECT 1 FROM connector WHERE arn = OLD.subject) OR EXISTS (SELECT 1 FROM ended WHERE subject = OLD.subject)
BEGIN
    SELECT RAISE(ABORT, 'events stay as long as what they tell of');
END;

CREATE TABLE node (
    name TEXT PRIMARY KEY,
    boot_id TEXT NOT NULL
);
