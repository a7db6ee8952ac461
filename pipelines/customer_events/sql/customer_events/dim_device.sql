{{ config(materialized='incremental', unique_key='device_id') }}
-- The device each user uses now: as their latest event says.
-- Grain: one row a user; key `device_id`, a hash of the user's id.
SELECT CAST(md5(concat_ws('|', user_id, 'device')) AS VARCHAR) AS device_id,
       user_id,
       device['os'] AS os,
       device['type'] AS type,
       device['model'] AS model,
       device['os_version'] AS os_version,
       device['app_version'] AS app_version,
       event_at AS as_of
FROM {{ ref('current_state') }}
