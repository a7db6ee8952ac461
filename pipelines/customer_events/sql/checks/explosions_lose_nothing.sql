-- Facts that have more or fewer rows than the lists of the events have elements. An event with an empty list is an event all the same.
WITH counted AS (
    SELECT 'fact_event' AS fact,
           (SELECT count(*) FROM {{ source('bronze', 'customer_events') }}) AS expected,
           (SELECT count(*) FROM {{ ref('fact_event') }}) AS found
    UNION ALL
    SELECT 'fact_user_action',
           (SELECT coalesce(sum(cardinality(user_action)), 0) FROM {{ source('bronze', 'customer_events') }}),
           (SELECT count(*) FROM {{ ref('fact_user_action') }})
    UNION ALL
    SELECT 'fact_search_history',
           (SELECT coalesce(sum(cardinality(search_history)), 0) FROM {{ source('bronze', 'customer_events') }}),
           (SELECT count(*) FROM {{ ref('fact_search_history') }})
    UNION ALL
    SELECT 'fact_recommendation',
           (SELECT coalesce(sum(cardinality(recommendations)), 0) FROM {{ source('bronze', 'customer_events') }}),
           (SELECT count(*) FROM {{ ref('fact_recommendation') }})
)
SELECT fact, expected, found FROM counted WHERE CAST(expected AS BIGINT) <> found
