-- Format 1 of the run history in Postgres. Instants are microseconds since 1970 in UTC; columns ending in _json hold JSON as text.
CREATE TABLE version (
    format BIGINT NOT NULL,                  -- of these tables
    number BIGINT NOT NULL                   -- another one after every change
);
INSERT INTO version VALUES (0, 0);

CREATE TABLE owners (
    id          TEXT COLLATE "C" PRIMARY KEY,
    owner_json  TEXT NOT NULL,
    lease_until BIGINT NOT NULL,
    retired     BOOLEAN NOT NULL DEFAULT FALSE
);

-- Each DAG definition that a run was pinned to, once.
CREATE TABLE definitions (
    revision        TEXT PRIMARY KEY,
    dag             TEXT NOT NULL,
    definition_json TEXT NOT NULL,
    first_used      BIGINT NOT NULL
);

CREATE TABLE runs (
    number         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,   -- the order of making
    id             TEXT COLLATE "C" NOT NULL UNIQUE,
    dag            TEXT COLLATE "C" NOT NULL,
    key            TEXT UNIQUE,
    state          TEXT NOT NULL,
    cause_json     TEXT NOT NULL,
    interval_start BIGINT,
    interval_end   BIGINT,
    params_json    TEXT NOT NULL,
    options_json   TEXT NOT NULL,
    revision       TEXT REFERENCES definitions (revision),
    owner          TEXT,
    queued_at      BIGINT NOT NULL,
    started_at     BIGINT,
    ended_at       BIGINT,
    error_json     TEXT,
    cancel_by      TEXT,
    amended        BIGINT NOT NULL DEFAULT 0,
    backfill       TEXT                      -- the backfill it is part of
);
CREATE INDEX runs_active ON runs (queued_at, number) WHERE ended_at IS NULL;
CREATE INDEX runs_by_time ON runs (queued_at, number);
CREATE INDEX runs_by_dag ON runs (dag, queued_at, number);
CREATE INDEX runs_ended ON runs (dag, ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX runs_over ON runs (ended_at, number) WHERE ended_at IS NOT NULL;
CREATE INDEX runs_by_state ON runs (state, queued_at, number);
CREATE INDEX runs_by_dag_and_state ON runs (dag, state, queued_at, number);
CREATE INDEX runs_by_revision ON runs (revision);

CREATE TABLE task_instances (
    run         BIGINT NOT NULL,
    position    BIGINT NOT NULL,             -- in the DAG
    task        TEXT COLLATE "C" NOT NULL,
    state       TEXT NOT NULL,
    attempt     BIGINT NOT NULL,
    retry_at    BIGINT,
    started_at  BIGINT,
    ended_at    BIGINT,
    summary     TEXT NOT NULL,
    result_json TEXT NOT NULL,
    error_json  TEXT,
    base        BIGINT NOT NULL DEFAULT 0,
    wanted      TEXT,
    choice_json TEXT,
    item        BIGINT NOT NULL DEFAULT -1,  -- of a task made for one item: which
    item_json   TEXT,
    PRIMARY KEY (run, task)
);

CREATE TABLE attempts (
    run        BIGINT NOT NULL,
    task       TEXT COLLATE "C" NOT NULL,
    number     BIGINT NOT NULL,
    state      TEXT NOT NULL,
    owner      TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    ended_at   BIGINT,
    resumes    BIGINT NOT NULL,
    error_json TEXT,
    PRIMARY KEY (run, task, number)
);

-- Files that have started a run; written with the run, and known when it is forgotten.
CREATE TABLE arrivals (
    dag      TEXT NOT NULL,
    path     TEXT NOT NULL,
    size     BIGINT NOT NULL,
    modified BIGINT NOT NULL,                -- nanoseconds since 1970
    run      BIGINT NOT NULL,
    PRIMARY KEY (dag, path, size, modified)
);

-- How far each cron trigger is; moved on with the run.
CREATE TABLE schedules (
    dag        TEXT NOT NULL,
    position   BIGINT NOT NULL,              -- of the trigger in its DAG
    first_seen BIGINT NOT NULL,
    last_end   BIGINT,
    PRIMARY KEY (dag, position)
);

-- What running tasks hold: pools, keys, and their DAG's share. A task that stops running holds nothing.
CREATE TABLE holdings (
    name  TEXT NOT NULL,
    run   BIGINT NOT NULL,
    task  TEXT COLLATE "C" NOT NULL,
    slots BIGINT NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY (name, run, task)
);
CREATE INDEX holdings_by_task ON holdings (run, task);

CREATE TABLE paused (
    dag   TEXT PRIMARY KEY,
    by    TEXT NOT NULL,
    since BIGINT NOT NULL
);

-- What happened, and the run it has started; 0 for what was so before anybody watched.
CREATE TABLE events (
    number    BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dag       TEXT NOT NULL,
    position  BIGINT NOT NULL,               -- of the trigger in its DAG
    key       TEXT NOT NULL,
    body_json TEXT NOT NULL,
    run       BIGINT,
    UNIQUE (dag, position, key)
);
CREATE INDEX events_open ON events (number) WHERE run IS NULL;
CREATE INDEX events_of_trigger ON events (dag, position, number);

CREATE TABLE backfills (
    id             TEXT COLLATE "C" PRIMARY KEY,
    dag            TEXT NOT NULL,
    intervals_json TEXT NOT NULL,            -- in the order of their runs
    params_json    TEXT NOT NULL,
    at_once        BIGINT NOT NULL,
    by             TEXT NOT NULL,
    asked_at       BIGINT NOT NULL,
    made           BIGINT NOT NULL DEFAULT 0,   -- how many of them have their run
    whole          BIGINT NOT NULL              -- how many there are
);

-- Who is still to be told what; written with what happened, removed when they were told.
CREATE TABLE calls (
    id        TEXT PRIMARY KEY,
    run       BIGINT NOT NULL,
    call_json TEXT NOT NULL,
    body_json TEXT NOT NULL,
    due_at    BIGINT NOT NULL,
    tries     BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX calls_of_run ON calls (run);

-- Deadlines that were missed, each said once.
CREATE TABLE missed (
    run  BIGINT NOT NULL,
    task TEXT NOT NULL,                      -- empty: the run itself
    at   BIGINT NOT NULL,
    PRIMARY KEY (run, task)
);
