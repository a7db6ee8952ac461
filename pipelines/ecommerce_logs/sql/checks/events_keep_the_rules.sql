-- Rows that should have been dead letters.
SELECT event_id, customer_id, event_type, amount, currency, event_at
FROM {{ source('silver', 'kafka_events') }}
WHERE (customer_id IS NOT NULL AND event_type IN ('PAGE_VIEW', 'ADD_TO_CART', 'PURCHASE') AND amount > 0
       AND currency IS NOT NULL AND event_at IS NOT NULL) IS NOT TRUE
