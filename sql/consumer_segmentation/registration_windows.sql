{{ config(materialized='incremental') }}
-- Users registering per hour, in fixed hours and in hours that move on every 15 minutes.
-- Grain: one row a window and kind; key (`window_type`, `window_start`). Windows are half-open,
-- [window_start, window_end), UTC, aligned to the hour or the quarter hour. A window nobody registered in has no row.
--   window_start, window_end   UTC
--   window_type                'tumbling' (1 hour) | 'sliding' (1 hour, every 15 minutes)
--   registrations              distinct users
WITH panes AS (
    -- A user counts once per window however often they register: what matters is in which quarter hours they did.
    -- Microseconds without zone are UTC here too; on other types date_bin computes in nanoseconds, which end in 2262.
    SELECT DISTINCT user_id,
           date_bin(INTERVAL '15 minutes', arrow_cast(event_at, 'Timestamp(Microsecond, None)')) AS pane
    FROM {{ source('bronze', 'consumer_registration_topic') }}
),
members AS (
    SELECT user_id, date_bin(INTERVAL '1 hour', pane) AS window_start, 'tumbling' AS window_type FROM panes
    -- The four sliding hours that contain a quarter hour.
    UNION ALL SELECT user_id, pane, 'sliding' FROM panes
    UNION ALL SELECT user_id, pane - INTERVAL '15 minutes', 'sliding' FROM panes
    UNION ALL SELECT user_id, pane - INTERVAL '30 minutes', 'sliding' FROM panes
    UNION ALL SELECT user_id, pane - INTERVAL '45 minutes', 'sliding' FROM panes
)
SELECT arrow_cast(window_start, 'Timestamp(Microsecond, Some("UTC"))') AS window_start,
       arrow_cast(window_start + INTERVAL '1 hour', 'Timestamp(Microsecond, Some("UTC"))') AS window_end,
       window_type,
       count(DISTINCT user_id) AS registrations
FROM members
WHERE window_start IS NOT NULL
GROUP BY window_start, window_type
