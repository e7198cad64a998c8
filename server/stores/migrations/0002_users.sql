-- A user's id is the name: it is never given to somebody else, so that nobody inherits runs.
ALTER TABLE users ADD COLUMN kind TEXT NOT NULL DEFAULT 'user';
ALTER TABLE users ADD COLUMN revoked_at TEXT;
UPDATE users SET kind = 'operator' WHERE id = 'local';
CREATE UNIQUE INDEX users_by_name ON users (id COLLATE NOCASE);

-- `digest` is the SHA-256 of a token; the token itself is kept nowhere.
CREATE TABLE user_tokens (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    digest BLOB NOT NULL UNIQUE,
    label TEXT NOT NULL,
    created_at TEXT NOT NULL,
    expires_at TEXT,
    revoked_at TEXT
) STRICT;

CREATE TABLE memberships (
    user_id TEXT NOT NULL REFERENCES users (id),
    project_id TEXT NOT NULL REFERENCES projects (id),
    PRIMARY KEY (user_id, project_id)
) STRICT, WITHOUT ROWID;

-- Sessions that were signed out before their cookie expires.
CREATE TABLE ended_sessions (
    id TEXT PRIMARY KEY,
    expires_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX flow_runs_by_user ON flow_runs (user_id, number);
