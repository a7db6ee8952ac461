{{ config(materialized='incremental') }}
-- Users registering per hour, in fixed hours and in hours that move on every 15 minutes.
-- Grain: one row a window and kind; key (`window_type`, `window_start`). Windows are half-open,
-- [window_start, window_end), UTC, aligned to the hour or the quarter hour. A window nobody registered in has no row.
--   window_start, window_end   UTC
--   window_type                'tumbling' (1 hour) | 'sliding' (1 hour, every 15 minutes)
--   registrations              distinct users
SELECT window_start, window_end, 'tumbling' AS window_type, count(DISTINCT user_id) AS registrations
FROM {{ source('bronze', 'consumer_registration_topic') }}
GROUP BY tumble(event_at, INTERVAL '1 hour')
UNION ALL
SELECT window_start, window_end, 'sliding', count(DISTINCT user_id)
FROM {{ source('bronze', 'consumer_registration_topic') }}
GROUP BY hop(event_at, INTERVAL '15 minutes', INTERVAL '1 hour')
