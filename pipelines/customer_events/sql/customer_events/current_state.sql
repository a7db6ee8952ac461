{{ config(materialized='view') }}
-- Of each user the latest event: event time, then partition and offset. The three dimensions of the current state read it.
SELECT event_id, user_id, event_at, device, location, user_subscription
FROM (
    SELECT event_id, user_id, event_at, device, location, user_subscription,
           row_number() OVER (PARTITION BY user_id ORDER BY event_at DESC, _partition DESC, _offset DESC) AS nth
    FROM {{ source('bronze', 'customer_events') }}
)
WHERE nth = 1
