-- Users with events outside the years that the quarter hours of `active_sessions` can be computed for (nanoseconds in 64
-- bits: 1677-09-22 to 2262-04-10). Such events are in bronze, in the facts and in windows; that table leaves them out.
SELECT user_id, first_seen_at, last_seen_at
FROM {{ ref('dim_user') }}
WHERE first_seen_at < TIMESTAMP '1677-09-22T00:00:00Z' OR last_seen_at >= TIMESTAMP '2262-04-10T00:00:00Z'
