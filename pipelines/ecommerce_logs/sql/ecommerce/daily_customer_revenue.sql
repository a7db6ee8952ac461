{{ config(materialized='incremental', unique_key=['event_date', 'customer_id', 'currency']) }}
-- What customers spent.
-- Grain: one row a day (UTC, event time), customer and currency in which there was a purchase.
--   revenue     sum of the purchases' amounts, exact
--   purchases   how many there were
SELECT CAST(event_at AS DATE) AS event_date,
       customer_id,
       currency,
       sum(amount) AS revenue,
       count(*) AS purchases
FROM {{ source('silver', 'kafka_events') }}
WHERE event_type = 'PURCHASE'
GROUP BY 1, 2, 3
