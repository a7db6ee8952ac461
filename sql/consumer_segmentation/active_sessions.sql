{{ config(materialized='table') }}
-- How many sessions are open at the same time.
-- Grain: one row a quarter hour; key `measured_at`. Quarter hours run from the hour the first session starts in to
-- the hour the last one ends in. Times without any session have rows of 0, unless nothing happened for longer than
-- `active_sessions_gap_hours` (default a week): then there are none, so that one wrong clock does not make a
-- million rows.
--   measured_at        UTC, the instant of the count: a quarter hour
--   active_sessions    sessions with started_at <= measured_at < ended_at
--   hour_start         UTC, the hour measured_at is in
--   hour_max_sessions  the most that were open at any one instant of that hour, not only at its quarters
WITH sessions AS (
    -- Microseconds without zone are UTC here too; on other types date_bin computes in nanoseconds, which end in 2262.
    SELECT arrow_cast(started_at, 'Timestamp(Microsecond, None)') AS started_at,
           arrow_cast(ended_at, 'Timestamp(Microsecond, None)') AS ended_at
    FROM {{ ref('fact_session') }}
),
usable AS (
    SELECT started_at, ended_at, date_bin(INTERVAL '1 hour', started_at) AS first_hour
    FROM sessions
    WHERE date_bin(INTERVAL '1 hour', started_at) IS NOT NULL AND date_bin(INTERVAL '1 hour', ended_at) IS NOT NULL
),
busy AS (
    SELECT DISTINCT unnest(range(first_hour, ended_at, INTERVAL '1 hour')) AS hour_start
    FROM usable
),
followed AS (
    SELECT hour_start, lead(hour_start) OVER (ORDER BY hour_start) AS next_hour
    FROM busy
),
quarters AS (
    SELECT unnest(range(
               hour_start,
               CASE WHEN next_hour <= hour_start + INTERVAL '{{ var("active_sessions_gap_hours", 168) }} hours' THEN next_hour
                    ELSE hour_start + INTERVAL '1 hour' END,
               INTERVAL '15 minutes')) AS measured_at
    FROM followed
),
changes AS (
    SELECT started_at AS changed_at, 1 AS delta, 0 AS quarter FROM usable
    UNION ALL SELECT ended_at, -1, 0 FROM usable
    UNION ALL SELECT arrow_cast(measured_at, 'Timestamp(Microsecond, None)'), 0, 1 FROM quarters
),
instants AS (
    -- One row an instant: what ends and what starts there happens at once.
    SELECT changed_at, sum(delta) AS delta, max(quarter) AS quarter
    FROM changes
    GROUP BY changed_at
),
levels AS (
    SELECT changed_at, quarter, date_bin(INTERVAL '1 hour', changed_at) AS hour_start,
           sum(delta) OVER (ORDER BY changed_at ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS open_sessions
    FROM instants
),
peaks AS (
    -- Every hour here begins with a quarter hour, which carries over what was open before.
    SELECT hour_start, max(open_sessions) AS hour_max_sessions
    FROM levels
    GROUP BY hour_start
)
SELECT arrow_cast(l.changed_at, 'Timestamp(Microsecond, Some("UTC"))') AS measured_at,
       l.open_sessions AS active_sessions,
       arrow_cast(l.hour_start, 'Timestamp(Microsecond, Some("UTC"))') AS hour_start,
       p.hour_max_sessions
FROM levels l
JOIN peaks p ON p.hour_start = l.hour_start
WHERE l.quarter = 1
