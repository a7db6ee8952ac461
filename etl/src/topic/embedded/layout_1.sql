-- A topics file of layout 1: two records left of three, one of them a tombstone, and one publisher.
PRAGMA application_id = 1414090068;
PRAGMA user_version = 1;
CREATE TABLE topics (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, partitions INTEGER NOT NULL);
CREATE TABLE lanes (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic INTEGER NOT NULL REFERENCES topics (id), partition INTEGER NOT NULL,
    earliest INTEGER NOT NULL DEFAULT 0, end INTEGER NOT NULL DEFAULT 0,
    newest_ms INTEGER NOT NULL DEFAULT -9223372036854775808, indexed INTEGER NOT NULL DEFAULT 0,
    UNIQUE (topic, partition));
CREATE TABLE records (id INTEGER PRIMARY KEY, timestamp_ms INTEGER NOT NULL, key BLOB, value BLOB, headers BLOB);
CREATE TABLE times (
    lane INTEGER NOT NULL, newest_ms INTEGER NOT NULL, offset INTEGER NOT NULL,
    PRIMARY KEY (lane, newest_ms, offset)) WITHOUT ROWID;
CREATE TABLE publishers (name TEXT PRIMARY KEY, epoch INTEGER NOT NULL, progress TEXT) WITHOUT ROWID;
CREATE TABLE staged (
    id INTEGER PRIMARY KEY, publisher TEXT NOT NULL, epoch INTEGER NOT NULL, lane INTEGER NOT NULL,
    timestamp_ms INTEGER NOT NULL, key BLOB, value BLOB, headers BLOB);
CREATE INDEX staged_by_step ON staged (publisher, epoch);
INSERT INTO topics VALUES (1, 'orders', 1);
INSERT INTO lanes VALUES (1, 1, 0, 1, 3, 30, 0);
INSERT INTO records VALUES ((1 << 40) | 1, 20, X'6B31', X'7631', X'01000000680100000076');
INSERT INTO records VALUES ((1 << 40) | 2, 30, X'6B32', NULL, NULL);
INSERT INTO publishers VALUES ('movies', 4, '{"version":3}');
