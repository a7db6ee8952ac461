{{ config(materialized='incremental') }}
-- Cart lines paid for.
-- Grain: one row a cart line; key (`cart_id`, `movie_id`). A checkout that was sent more than once counts once,
-- as its earliest record: event time, then partition and offset. `records` says how many there were.
--   cart_id          the cart, as written
--   movie_id         the item, as written
--   movie_key        dim_movie; 'unknown' if the catalogue does not have the item
--   user_id          dim_user
--   checked_out_at   UTC, event time
--   checkout_date    dim_date
--   payment_method   as written
--   purchase_amount  DECIMAL(10, 2), in the currency of the shop
--   records          how many records said so, at least 1
WITH records AS (
    SELECT cart_id, movie_id, user_id, event_at, payment_method, purchase_amount,
           row_number() OVER (PARTITION BY cart_id, movie_id ORDER BY event_at, _partition, _offset) AS nth,
           count(*) OVER (PARTITION BY cart_id, movie_id) AS records
    FROM {{ source('bronze', 'checkout_to_cart_topic') }}
)
SELECT r.cart_id,
       r.movie_id,
       coalesce(m.movie_key, 'unknown') AS movie_key,
       r.user_id,
       r.event_at AS checked_out_at,
       CAST(r.event_at AS DATE) AS checkout_date,
       r.payment_method,
       r.purchase_amount,
       r.records
FROM records r
LEFT JOIN {{ ref('dim_movie') }} m ON m.movie_key = r.movie_id
WHERE r.nth = 1
