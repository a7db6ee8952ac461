{{ config(materialized='incremental') }}
-- Catalogue items (not only movies, whatever the name says).
-- Grain: one row an item, plus the row `unknown` that facts about items outside the catalogue point to;
-- key `movie_key`. The fact keeps the item as it was written, so nothing is lost by pointing there.
--   movie_key            text; the item number, or 'unknown'
--   item_id              the item number; NULL in the unknown row
--   title, genre, product_group   as written; NULL: not given
--   list_price           in list_price_currency, two decimals; NULL: not given (never 0 for missing)
--   list_price_currency  ISO 4217
--   trade_in_value       two decimals
--   release_date         date
SELECT CAST(item_id AS VARCHAR) AS movie_key,
       item_id,
       title,
       genre,
       product_group,
       list_price,
       list_price_currency,
       trade_in_value,
       release_date
FROM {{ source('silver', 'movies') }}
UNION ALL
SELECT 'unknown', NULL, 'Unknown item', NULL, NULL, NULL, NULL, NULL, NULL
