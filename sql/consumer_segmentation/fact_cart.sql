{{ config(materialized='incremental') }}
-- Items put into carts.
-- Grain: one row an `added_to_cart` record; key `event_id`. The same item twice in a cart is two of it.
--   event_id    text, topic/partition/offset
--   added_at    UTC, event time
--   add_date    dim_date
--   user_id     dim_user
--   cart_id     the cart, as written
--   item_id     the item as written
--   movie_key   dim_movie; 'unknown' if the catalogue does not have the item
SELECT a._topic || '/' || CAST(a._partition AS VARCHAR) || '/' || CAST(a._offset AS VARCHAR) AS event_id,
       a.event_at AS added_at,
       CAST(a.event_at AS DATE) AS add_date,
       a.user_id,
       a.cart_id,
       a.item_id,
       coalesce(m.movie_key, 'unknown') AS movie_key
FROM {{ source('bronze', 'added_to_cart_topic') }} a
LEFT JOIN {{ ref('dim_movie') }} m ON m.movie_key = a.item_id
