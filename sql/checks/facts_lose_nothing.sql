-- Facts that do not account for every landed record: fewer or more rows than bronze has.
WITH counted AS (
    SELECT 'fact_view' AS fact,
           (SELECT count(*) FROM {{ source('bronze', 'item_view_topic') }}) AS records,
           (SELECT count(*) FROM {{ ref('fact_view') }}) AS accounted
    UNION ALL
    SELECT 'fact_cart',
           (SELECT count(*) FROM {{ source('bronze', 'added_to_cart_topic') }}),
           (SELECT count(*) FROM {{ ref('fact_cart') }})
    UNION ALL
    SELECT 'fact_checkout',
           (SELECT count(*) FROM {{ source('bronze', 'checkout_to_cart_topic') }}),
           (SELECT coalesce(sum(records), 0) FROM {{ ref('fact_checkout') }})
)
SELECT fact, records, accounted FROM counted WHERE records <> accounted
