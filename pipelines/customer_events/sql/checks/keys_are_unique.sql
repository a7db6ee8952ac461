-- Keys that more than one row has.
SELECT 'fact_event' AS of, event_id AS id FROM {{ ref('fact_event') }} GROUP BY 2 HAVING count(*) > 1
UNION ALL SELECT 'fact_user_action', action_id FROM {{ ref('fact_user_action') }} GROUP BY 2 HAVING count(*) > 1
UNION ALL SELECT 'fact_search_history', search_id FROM {{ ref('fact_search_history') }} GROUP BY 2 HAVING count(*) > 1
UNION ALL SELECT 'fact_recommendation', recommendation_id FROM {{ ref('fact_recommendation') }} GROUP BY 2 HAVING count(*) > 1
UNION ALL SELECT 'content', content_id FROM {{ ref('content') }} GROUP BY 2 HAVING count(*) > 1
UNION ALL SELECT 'dim_user', user_id FROM {{ ref('dim_user') }} GROUP BY 2 HAVING count(*) > 1
UNION ALL SELECT 'dim_user_subscription', user_id FROM {{ ref('dim_user_subscription') }} GROUP BY 2 HAVING count(*) > 1
UNION ALL SELECT 'dim_device', user_id FROM {{ ref('dim_device') }} GROUP BY 2 HAVING count(*) > 1
UNION ALL SELECT 'dim_location', user_id FROM {{ ref('dim_location') }} GROUP BY 2 HAVING count(*) > 1
