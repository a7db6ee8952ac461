{{ config(materialized='incremental') }}
-- How long sessions last.
-- Grain: one row an hour in which sessions started; key `hour_start`. A session counts in the hour it started in,
-- with its whole length, also when it ended later. Sessions nobody ended count with the time-out as their length;
-- `timed_out_sessions` says how many of them are in the average.
--   hour_start                 UTC
--   sessions                   how many started
--   timed_out_sessions         how many of these ended by time-out
--   average_duration_seconds   mean over all of them
--   longest_duration_seconds
SELECT window_start AS hour_start,
       count(*) AS sessions,
       sum(timed_out) AS timed_out_sessions,
       -- Summed as whole microseconds, so the order of the rows cannot change the result.
       CAST(sum(duration_us) AS DOUBLE) / CAST(count(*) AS DOUBLE) / 1000000.0 AS average_duration_seconds,
       CAST(max(duration_us) AS DOUBLE) / 1000000.0 AS longest_duration_seconds
FROM (
    SELECT started_at,
           CASE WHEN ended_by = 'timeout' THEN 1 ELSE 0 END AS timed_out,
           CAST(ended_at AS BIGINT) - CAST(started_at AS BIGINT) AS duration_us
    FROM {{ ref('fact_session') }}
) s
GROUP BY tumble(started_at, INTERVAL '1 hour')
