-- Tags. `-- name --` begins a statement; store/sql.py reads this folder.

-- set_connector_tags --
UPDATE connector SET tags = :tags WHERE arn = :arn

-- set_image_tags --
UPDATE image SET tags = :tags WHERE arn = :arn
