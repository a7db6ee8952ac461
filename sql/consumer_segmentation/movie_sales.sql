{{ config(materialized='incremental') }}
-- Sales by item.
-- Grain: one row an item that was bought; key `movie_id`, as the checkouts write it.
--   movie_id       the item as written
--   movie_key      dim_movie; 'unknown' if the catalogue does not have the item
--   title          of the catalogue
--   units          cart lines sold
--   total_sales    DECIMAL(18, 2), exact sum of purchase_amount over the lines, each counted once
--   aggregated_at  UTC, event time of the newest checkout counted
SELECT s.movie_id,
       s.movie_key,
       m.title,
       s.units,
       s.total_sales,
       s.aggregated_at
FROM (
    SELECT movie_id, movie_key,
           count(*) AS units,
           CAST(sum(purchase_amount) AS DECIMAL(18, 2)) AS total_sales,
           max(checked_out_at) AS aggregated_at
    FROM {{ ref('fact_checkout') }}
    GROUP BY movie_id, movie_key
) s
LEFT JOIN {{ ref('dim_movie') }} m ON m.movie_key = s.movie_key
