-- Format 1 of the run history. Instants are microseconds since 1970 in UTC; columns ending in _json hold JSON.
CREATE TABLE owners (
    id          TEXT PRIMARY KEY,
    owner_json  TEXT NOT NULL,
    lease_until INTEGER NOT NULL,
    retired     INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

-- Each DAG definition that a run was pinned to, once.
CREATE TABLE definitions (
    revision        TEXT PRIMARY KEY,
    dag             TEXT NOT NULL,
    definition_json TEXT NOT NULL,
    first_used      INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE runs (
    number         INTEGER PRIMARY KEY,      -- the order of making
    id             TEXT NOT NULL UNIQUE,
    dag            TEXT NOT NULL,
    key            TEXT UNIQUE,
    state          TEXT NOT NULL,
    cause_json     TEXT NOT NULL,
    interval_start INTEGER,
    interval_end   INTEGER,
    params_json    TEXT NOT NULL,
    options_json   TEXT NOT NULL,
    revision       TEXT REFERENCES definitions (revision),
    owner          TEXT,
    queued_at      INTEGER NOT NULL,
    started_at     INTEGER,
    ended_at       INTEGER,
    error_json     TEXT
);
CREATE INDEX runs_active ON runs (queued_at, number) WHERE ended_at IS NULL;
CREATE INDEX runs_by_time ON runs (queued_at, number);
CREATE INDEX runs_by_dag ON runs (dag, queued_at, number);
CREATE INDEX runs_ended ON runs (dag, ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX runs_by_state ON runs (state, queued_at, number);

CREATE TABLE task_instances (
    run         INTEGER NOT NULL REFERENCES runs (number),
    position    INTEGER NOT NULL,            -- in the DAG
    task        TEXT NOT NULL,
    state       TEXT NOT NULL,
    attempt     INTEGER NOT NULL,
    retry_at    INTEGER,
    started_at  INTEGER,
    ended_at    INTEGER,
    summary     TEXT NOT NULL,
    result_json TEXT NOT NULL,
    error_json  TEXT,
    PRIMARY KEY (run, task)
) WITHOUT ROWID;

CREATE TABLE attempts (
    run        INTEGER NOT NULL REFERENCES runs (number),
    task       TEXT NOT NULL,
    number     INTEGER NOT NULL,
    state      TEXT NOT NULL,
    owner      TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER,
    resumes    INTEGER NOT NULL,
    error_json TEXT,
    PRIMARY KEY (run, task, number)
) WITHOUT ROWID;

-- Files that have started a run; written with the run.
CREATE TABLE arrivals (
    dag      TEXT NOT NULL,
    path     TEXT NOT NULL,
    size     INTEGER NOT NULL,
    modified INTEGER NOT NULL,               -- nanoseconds since 1970
    run      INTEGER NOT NULL REFERENCES runs (number),
    PRIMARY KEY (dag, path, size, modified)
) WITHOUT ROWID;

-- How far each cron trigger is; moved on with the run.
CREATE TABLE schedules (
    dag        TEXT NOT NULL,
    position   INTEGER NOT NULL,             -- of the trigger in its DAG
    first_seen INTEGER NOT NULL,
    last_end   INTEGER,
    PRIMARY KEY (dag, position)
) WITHOUT ROWID;
