{{ config(materialized='incremental', unique_key='action_id') }}
-- What users did while they watched.
-- Grain: one row an action; key `action_id`, a hash of the event and the action's place in it, from 1.
--   action_timestamp   UTC; NULL: as written it names a day that does not exist, see impossible_dates
--   duration           seconds, of a pause
WITH actions AS (
    SELECT event_id, user_id, content_id, unnest(user_action) AS a, unnest(range(1, CAST(cardinality(user_action) AS BIGINT) + 1)) AS n
    FROM (
        SELECT event_id, user_id, content['id'] AS content_id, user_action
        FROM {{ source('bronze', 'customer_events') }}
        WHERE cardinality(user_action) > 0
    )
)
SELECT CAST(md5(concat_ws('|', event_id, 'action', CAST(n AS VARCHAR))) AS VARCHAR) AS action_id,
       event_id,
       user_id,
       content_id,
       n AS position,
       a['action_type'] AS action_type,
       a['duration'] AS duration,
       a['old_speed'] AS old_speed,
       a['new_speed'] AS new_speed,
       a['old_quality'] AS old_quality,
       a['new_quality'] AS new_quality,
       a['completed'] AS completed,
       parse_instant(a['timestamp']) AS action_timestamp,
       a['timestamp'] AS written_timestamp
FROM actions
