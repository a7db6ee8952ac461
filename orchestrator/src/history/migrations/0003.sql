-- Format 3: a million past runs slow nothing. What is asked of the past has its index.
CREATE INDEX runs_over ON runs (ended_at, number) WHERE ended_at IS NOT NULL;   -- what can be forgotten
CREATE INDEX runs_by_dag_and_state ON runs (dag, state, queued_at, number);
CREATE INDEX runs_by_revision ON runs (revision);                               -- definitions that nobody is pinned to
CREATE INDEX runs_of_backfill ON runs (backfill) WHERE backfill IS NOT NULL;
CREATE INDEX events_of_trigger ON events (dag, position, number);               -- the last one of a trigger
CREATE INDEX calls_of_run ON calls (run);
