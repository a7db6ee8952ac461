{{ config(materialized='incremental', unique_key='content_id') }}
-- What can be watched.
-- Grain: one row a content; key `content_id`, as written. What was only recommended has a row with NULL attributes, so every fact
-- finds its content. Of several descriptions the latest counts: event time, then partition and offset.
--   season, episode   NULL where there are none (-1 as written)
--   duration          minutes
WITH watched AS (
    SELECT content['id'] AS content_id, content,
           row_number() OVER (PARTITION BY content['id'] ORDER BY event_at DESC, _partition DESC, _offset DESC) AS nth
    FROM {{ source('bronze', 'customer_events') }}
),
recommended AS (
    SELECT DISTINCT content_id FROM {{ ref('fact_recommendation') }}
)
SELECT coalesce(w.content_id, r.content_id) AS content_id,
       w.content['title'] AS title,
       w.content['type'] AS type,
       w.content['genre'] AS genre,
       nullif(w.content['season'], -1) AS season,
       nullif(w.content['episode'], -1) AS episode,
       w.content['duration'] AS duration,
       w.content['language'] AS language,
       w.content['provider'] AS provider,
       w.content['release_year'] AS release_year,
       w.content_id IS NOT NULL AS described
FROM (SELECT content_id, content FROM watched WHERE nth = 1) w
FULL OUTER JOIN recommended r ON r.content_id = w.content_id
