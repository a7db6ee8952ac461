{{ config(materialized='incremental', unique_key='event_id') }}
-- Events.
-- Grain: one row an event; key `event_id`, a hash of user, content and time as written.
--   created_at     UTC, event time
--   event_details  everything the player said
SELECT event_id,
       user_id,
       content['id'] AS content_id,
       event_at AS created_at,
       event_type,
       event_details
FROM {{ source('bronze', 'customer_events') }}
