-- Format 2: what people ask of runs and tasks, limits that hold over all processes, lists, backfills, whom to tell.
ALTER TABLE runs ADD COLUMN cancel_by TEXT;
ALTER TABLE runs ADD COLUMN amended INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN backfill TEXT;       -- the backfill it is part of

ALTER TABLE task_instances ADD COLUMN base INTEGER NOT NULL DEFAULT 0;
ALTER TABLE task_instances ADD COLUMN wanted TEXT;
ALTER TABLE task_instances ADD COLUMN choice_json TEXT;
ALTER TABLE task_instances ADD COLUMN item INTEGER NOT NULL DEFAULT -1;   -- of a task made for one item: which
ALTER TABLE task_instances ADD COLUMN item_json TEXT;

-- What running tasks hold: pools, keys, and their DAG's share. A task that stops running holds nothing.
CREATE TABLE holdings (
    name  TEXT NOT NULL,
    run   INTEGER NOT NULL REFERENCES runs (number),
    task  TEXT NOT NULL,
    slots INTEGER NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (name, run, task)
) WITHOUT ROWID;
CREATE INDEX holdings_by_task ON holdings (run, task);

CREATE TABLE paused (
    dag   TEXT PRIMARY KEY,
    by    TEXT NOT NULL,
    since INTEGER NOT NULL
) WITHOUT ROWID;

-- What happened, and the run it has started; 0 for what was so before anybody watched.
CREATE TABLE events (
    number    INTEGER PRIMARY KEY,
    dag       TEXT NOT NULL,
    position  INTEGER NOT NULL,          -- of the trigger in its DAG
    key       TEXT NOT NULL,
    body_json TEXT NOT NULL,
    run       INTEGER,
    UNIQUE (dag, position, key)
);
CREATE INDEX events_open ON events (number) WHERE run IS NULL;

CREATE TABLE backfills (
    id             TEXT PRIMARY KEY,
    dag            TEXT NOT NULL,
    intervals_json TEXT NOT NULL,        -- in the order of their runs
    params_json    TEXT NOT NULL,
    at_once        INTEGER NOT NULL,
    by             TEXT NOT NULL,
    asked_at       INTEGER NOT NULL,
    made           INTEGER NOT NULL DEFAULT 0,   -- how many of them have their run
    whole          INTEGER NOT NULL              -- how many there are
) WITHOUT ROWID;

-- Who is still to be told what; written with what happened, removed when they were told.
CREATE TABLE calls (
    id        TEXT PRIMARY KEY,
    run       INTEGER NOT NULL REFERENCES runs (number),
    call_json TEXT NOT NULL,
    body_json TEXT NOT NULL,
    due_at    INTEGER NOT NULL,
    tries     INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

-- A file stays known when its run is forgotten, so it must not be tied to it.
CREATE TABLE arrivals_2 (
    dag      TEXT NOT NULL,
    path     TEXT NOT NULL,
    size     INTEGER NOT NULL,
    modified INTEGER NOT NULL,               -- nanoseconds since 1970
    run      INTEGER NOT NULL,
    PRIMARY KEY (dag, path, size, modified)
) WITHOUT ROWID;
INSERT INTO arrivals_2 SELECT dag, path, size, modified, run FROM arrivals;
DROP TABLE arrivals;
ALTER TABLE arrivals_2 RENAME TO arrivals;

-- Deadlines that were missed, each said once.
CREATE TABLE missed (
    run  INTEGER NOT NULL REFERENCES runs (number),
    task TEXT NOT NULL,                  -- empty: the run itself
    at   INTEGER NOT NULL,
    PRIMARY KEY (run, task)
) WITHOUT ROWID;
