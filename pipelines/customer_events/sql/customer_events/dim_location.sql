{{ config(materialized='incremental', unique_key='location_id') }}
-- Where each user is now: as their latest event says.
-- Grain: one row a user; key `location_id`, a hash of the user's id.
SELECT CAST(md5(concat_ws('|', user_id, 'location')) AS VARCHAR) AS location_id,
       user_id,
       location['city'] AS city,
       location['region'] AS region,
       location['country'] AS country,
       location['timezone'] AS timezone,
       event_at AS as_of
FROM {{ ref('current_state') }}
