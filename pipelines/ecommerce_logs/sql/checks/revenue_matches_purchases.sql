-- Currencies whose revenue is not the exact sum of the purchases.
SELECT coalesce(r.currency, e.currency) AS currency, r.revenue, e.revenue AS expected
FROM (SELECT currency, sum(revenue) AS revenue FROM {{ ref('daily_customer_revenue') }} GROUP BY currency) r
FULL OUTER JOIN (
    SELECT currency, sum(amount) AS revenue
    FROM {{ source('silver', 'kafka_events') }}
    WHERE event_type = 'PURCHASE'
    GROUP BY currency
) e ON e.currency = r.currency
WHERE r.revenue IS DISTINCT FROM e.revenue
