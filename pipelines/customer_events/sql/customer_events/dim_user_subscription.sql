{{ config(materialized='incremental', unique_key='subscription_id') }}
-- The subscription each user has now: as their latest event says.
-- Grain: one row a user; key `subscription_id`, a hash of the user's id.
--   start_date   NULL: as written it does not exist, see impossible_dates
SELECT CAST(md5(concat_ws('|', user_id, 'subscription')) AS VARCHAR) AS subscription_id,
       user_id,
       user_subscription['plan'] AS plan,
       parse_date(user_subscription['start_date']) AS start_date,
       user_subscription['start_date'] AS written_start_date,
       user_subscription['billing_cycle'] AS billing_cycle,
       user_subscription['connected_services'] AS connected_services,
       event_at AS as_of
FROM {{ ref('current_state') }}
