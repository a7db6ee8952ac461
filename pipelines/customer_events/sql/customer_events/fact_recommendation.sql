{{ config(materialized='incremental', unique_key='recommendation_id') }}
-- What users were shown to watch next.
-- Grain: one row a recommendation in an event; key `recommendation_id`, a hash of the event and the place in its list, from 1.
--   content_id   what was recommended, not what was watched
--   position     where it was shown
WITH shown AS (
    SELECT event_id, user_id, unnest(recommendations) AS r, unnest(range(1, CAST(cardinality(recommendations) AS BIGINT) + 1)) AS n
    FROM (
        SELECT event_id, user_id, recommendations
        FROM {{ source('bronze', 'customer_events') }}
        WHERE cardinality(recommendations) > 0
    )
)
SELECT CAST(md5(concat_ws('|', event_id, 'recommendation', CAST(n AS VARCHAR))) AS VARCHAR) AS recommendation_id,
       event_id,
       user_id,
       r['content_id'] AS content_id,
       r['position'] AS position,
       r['clicked'] AS clicked,
       r['algorithm'] AS algorithm
FROM shown
