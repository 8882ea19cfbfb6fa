-- clientToken (store/tokens.py). `-- name --` begins a statement; store/sql.py reads this folder.

-- client_token --
SELECT digest, subject FROM client_token
WHERE account = :account AND region = :region AND operation = :operation AND token = :token
    AND created_at_ms > :since_ms

-- add_client_token --
INSERT INTO client_token (account, region, operation, token, digest, subject, created_at_ms)
VALUES (:account, :region, :operation, :token, :digest, :subject, :now_ms)

-- forget_old_client_tokens --
DELETE FROM client_token WHERE created_at_ms <= :before_ms

-- forget_client_tokens --
DELETE FROM client_token WHERE subject = :subject
