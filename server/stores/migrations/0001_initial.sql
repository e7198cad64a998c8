CREATE TABLE users (
    id TEXT PRIMARY KEY,
    created_at TEXT NOT NULL
) STRICT;

CREATE TABLE projects (
    id TEXT PRIMARY KEY,
    path TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    created_at TEXT NOT NULL
) STRICT;

CREATE TABLE flow_plans (
    id TEXT PRIMARY KEY,
    plan BLOB NOT NULL,
    patches BLOB NOT NULL,
    created_at TEXT NOT NULL
) STRICT;

-- `run` is the row as the wire shows it, without what the columns beside it hold.
CREATE TABLE flow_runs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    project_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    launch_key TEXT,
    body_hash TEXT NOT NULL,
    command TEXT NOT NULL,
    parent_run_id TEXT,
    flow_name TEXT NOT NULL,
    band TEXT NOT NULL,
    model TEXT,
    status TEXT NOT NULL,
    finishing INTEGER NOT NULL DEFAULT 0,
    input BLOB NOT NULL,
    plan BLOB NOT NULL,
    patches BLOB NOT NULL,
    report BLOB,
    error TEXT,
    head INTEGER NOT NULL DEFAULT 0,
    outline_head INTEGER NOT NULL DEFAULT 0,
    floor INTEGER NOT NULL DEFAULT 0,
    gen INTEGER NOT NULL DEFAULT 1,
    folded INTEGER NOT NULL DEFAULT 0,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX flow_runs_by_key ON flow_runs (user_id, launch_key)
    WHERE launch_key IS NOT NULL;
CREATE INDEX flow_runs_by_project ON flow_runs (project_id, number);
CREATE INDEX flow_runs_unfinished ON flow_runs (number)
    WHERE status IN ('queued', 'running', 'cancelling');
CREATE INDEX flow_runs_unfolded ON flow_runs (number)
    WHERE folded = 0 AND status NOT IN ('queued', 'running', 'cancelling');

CREATE TABLE flow_reports (
    run_id TEXT PRIMARY KEY REFERENCES flow_runs (id),
    report BLOB NOT NULL
) STRICT;

CREATE TABLE flow_generations (
    run_id TEXT NOT NULL REFERENCES flow_runs (id),
    gen INTEGER NOT NULL,
    base INTEGER NOT NULL,
    PRIMARY KEY (run_id, gen)
) STRICT, WITHOUT ROWID;

CREATE TABLE flow_steps (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    run_id TEXT NOT NULL REFERENCES flow_runs (id),
    step_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    agent TEXT,
    status TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    retries INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    repairs INTEGER NOT NULL DEFAULT 0,
    reused INTEGER NOT NULL DEFAULT 0,
    cancelling INTEGER NOT NULL DEFAULT 0,
    denied_tools INTEGER NOT NULL DEFAULT 0,
    reason TEXT,
    input BLOB NOT NULL,
    output BLOB,
    error TEXT,
    task_id TEXT,
    session_id TEXT,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    UNIQUE (run_id, step_id)
) STRICT;

CREATE TABLE flow_attempts (
    run_id TEXT NOT NULL REFERENCES flow_runs (id),
    step_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    task_id TEXT NOT NULL,
    session_id TEXT,
    started_at TEXT NOT NULL,
    ended_at TEXT,
    reason TEXT,
    exit_code INTEGER,
    usage BLOB,
    receipt BLOB,
    PRIMARY KEY (run_id, step_id, attempt)
) STRICT, WITHOUT ROWID;

CREATE TABLE flow_frames (
    run_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    outline INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (run_id, seq)
) STRICT, WITHOUT ROWID;

-- The frames of an ended run, folded: the original bytes, compressed, from first to last.
CREATE TABLE flow_frame_pages (
    run_id TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (run_id, first)
) STRICT, WITHOUT ROWID;

CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO users VALUES ('local', strftime('%Y-%m-%dT%H:%M:%fZ'));
