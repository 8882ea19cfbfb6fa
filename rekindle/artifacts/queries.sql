-- Every statement of the artifact store's index, by name.

-- bucket --
SELECT * FROM bucket WHERE name = :name

-- buckets --
SELECT * FROM bucket WHERE account = :account ORDER BY name

-- add_bucket --
INSERT INTO bucket (name, account, region, created_at_ms) VALUES (:name, :account, :region, :created_at_ms)

-- delete_bucket --
DELETE FROM bucket WHERE name = :name

-- object --
SELECT * FROM object WHERE bucket = :bucket AND key = :key

-- objects_from --
-- SQLite compares text as UTF-8 bytes: S3's order.
SELECT * FROM object WHERE bucket = :bucket AND key >= :first ORDER BY key LIMIT :limit

-- put_object --
INSERT INTO object (bucket, key, id, size_bytes, etag, updated_at_ms, headers, checksum, upload)
VALUES (:bucket, :key, :id, :size_bytes, :etag, :updated_at_ms, :headers, :checksum, :upload)

-- delete_object --
DELETE FROM object WHERE bucket = :bucket AND key = :key

-- segments --
SELECT blob, size_bytes FROM segment WHERE object = :object ORDER BY number

-- add_segment --
INSERT INTO segment (object, number, blob, size_bytes) VALUES (:object, :number, :blob, :size_bytes)

-- delete_segments --
DELETE FROM segment WHERE object = :object

-- upload --
SELECT * FROM upload WHERE id = :id AND bucket = :bucket AND key = :key

-- uploads --
SELECT * FROM upload WHERE bucket = :bucket AND key >= :first ORDER BY key, id

-- uploads_before --
SELECT id FROM upload WHERE created_at_ms < :before_ms

-- uploads_of --
SELECT id FROM upload WHERE bucket = :bucket

-- add_upload --
INSERT INTO upload (id, bucket, key, created_at_ms, headers, algorithm, kind)
VALUES (:id, :bucket, :key, :created_at_ms, :headers, :algorithm, :kind)

-- delete_upload --
DELETE FROM upload WHERE id = :id

-- parts --
SELECT * FROM part WHERE upload = :upload ORDER BY number

-- put_part --
INSERT INTO part (upload, number, blob, size_bytes, etag, checksum, updated_at_ms)
VALUES (:upload, :number, :blob, :size_bytes, :etag, :checksum, :updated_at_ms)

-- delete_part --
DELETE FROM part WHERE upload = :upload AND number = :number RETURNING blob

-- blobs --
SELECT blob FROM segment UNION ALL SELECT blob FROM part
