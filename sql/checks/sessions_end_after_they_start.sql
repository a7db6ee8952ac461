-- Sessions that end before or when they start, and sessions that run into the next one of the same user.
SELECT session_id, user_id, started_at, ended_at, next_started_at
FROM (
    SELECT session_id, user_id, started_at, ended_at,
           lead(started_at) OVER (PARTITION BY user_id ORDER BY started_at) AS next_started_at
    FROM {{ ref('fact_session') }}
) s
WHERE ended_at <= started_at OR ended_at > next_started_at
