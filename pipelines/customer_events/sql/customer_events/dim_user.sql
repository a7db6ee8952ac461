{{ config(materialized='incremental', unique_key='user_id') }}
-- Users.
-- Grain: one row a user; key `user_id`, as written.
SELECT user_id,
       min(event_at) AS first_seen_at,
       max(event_at) AS last_seen_at,
       count(*) AS events
FROM {{ source('bronze', 'customer_events') }}
GROUP BY user_id
