{{ config(materialized='incremental', unique_key='event_date') }}
-- How many of a day's visitors put something into a cart, and how many bought.
-- Grain: one row a day (UTC, event time).
--   event_date       the day
--   visitors         customers with any event
--   cart_customers   customers with at least one ADD_TO_CART
--   buyers           customers with at least one PURCHASE
--   cart_rate, purchase_rate   parts of the visitors, from 0 to 1, four digits
WITH days AS (
    SELECT CAST(event_at AS DATE) AS event_date,
           count(DISTINCT customer_id) AS visitors,
           count(DISTINCT CASE WHEN event_type = 'ADD_TO_CART' THEN customer_id END) AS cart_customers,
           count(DISTINCT CASE WHEN event_type = 'PURCHASE' THEN customer_id END) AS buyers
    FROM {{ source('silver', 'kafka_events') }}
    GROUP BY 1
)
SELECT event_date,
       visitors,
       cart_customers,
       buyers,
       CAST(CAST(cart_customers AS DOUBLE) / visitors AS DECIMAL(5, 4)) AS cart_rate,
       CAST(CAST(buyers AS DOUBLE) / visitors AS DECIMAL(5, 4)) AS purchase_rate
FROM days
