{{ config(materialized='incremental') }}
-- Item views.
-- Grain: one row an `item_view` record; key `event_id`. Views are not de-duplicated: they carry no identity of
-- their own, and looking twice is looking twice.
--   event_id    text, topic/partition/offset
--   viewed_at   UTC, event time
--   view_date   dim_date
--   user_id     dim_user
--   item_id     the item as written
--   movie_key   dim_movie; 'unknown' if the catalogue does not have the item
SELECT v._topic || '/' || CAST(v._partition AS VARCHAR) || '/' || CAST(v._offset AS VARCHAR) AS event_id,
       v.event_at AS viewed_at,
       CAST(v.event_at AS DATE) AS view_date,
       v.user_id,
       v.item_id,
       coalesce(m.movie_key, 'unknown') AS movie_key
FROM {{ source('bronze', 'item_view_topic') }} v
LEFT JOIN {{ ref('dim_movie') }} m ON m.movie_key = v.item_id
