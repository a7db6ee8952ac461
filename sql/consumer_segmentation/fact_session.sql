{{ config(materialized='incremental') }}
-- Sessions.
-- Grain: one row a sign-in of a user; key `session_id`. Two records of the same user and instant are one sign-in.
-- A session is half-open, [started_at, ended_at). It ends at the user's first later sign-out or next sign-in,
-- whichever comes first; with neither, after `session_timeout_hours`. A sign-out without a session before it
-- ends nothing and has no row here (it stays in bronze). Sessions of one user never overlap.
--   session_id           text, stable: MD5 of user and start
--   user_id              dim_user
--   started_at, ended_at UTC
--   start_date           dim_date
--   ended_by             'sign_out' | 'next_sign_in' | 'timeout'
--   duration_seconds     ended_at - started_at, to the microsecond
WITH events AS (
    SELECT user_id, event_at, 1 AS sign_ins, 0 AS sign_outs FROM {{ source('bronze', 'sign_in_topic') }}
    UNION ALL
    SELECT user_id, event_at, 0 AS sign_ins, 1 AS sign_outs FROM {{ source('bronze', 'sign_out_topic') }}
),
instants AS (
    -- One row a user and instant, so that "later" means strictly later.
    SELECT user_id, event_at, sum(sign_ins) AS sign_ins, sum(sign_outs) AS sign_outs
    FROM events
    GROUP BY user_id, event_at
),
followed AS (
    SELECT user_id, event_at, sign_ins,
           lead(event_at) OVER later AS next_at,
           lead(sign_outs) OVER later AS next_sign_outs
    FROM instants
    WINDOW later AS (PARTITION BY user_id ORDER BY event_at)
),
sessions AS (
    SELECT user_id,
           event_at AS started_at,
           coalesce(next_at, event_at + INTERVAL '{{ var("session_timeout_hours", 12) }} hours') AS ended_at,
           CASE WHEN next_at IS NULL THEN 'timeout'
                WHEN next_sign_outs > 0 THEN 'sign_out'
                ELSE 'next_sign_in' END AS ended_by
    FROM followed
    WHERE sign_ins > 0
)
SELECT md5(user_id || '|' || CAST(CAST(started_at AS BIGINT) AS VARCHAR)) AS session_id,
       user_id,
       started_at,
       ended_at,
       CAST(started_at AS DATE) AS start_date,
       ended_by,
       CAST(CAST(ended_at AS BIGINT) - CAST(started_at AS BIGINT) AS DOUBLE) / 1000000.0 AS duration_seconds
FROM sessions
