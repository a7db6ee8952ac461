-- Rows of facts without their event, user or content.
WITH facts AS (
    SELECT 'fact_event' AS fact, event_id, user_id, content_id FROM {{ ref('fact_event') }}
    UNION ALL SELECT 'fact_user_action', event_id, user_id, content_id FROM {{ ref('fact_user_action') }}
    UNION ALL SELECT 'fact_recommendation', event_id, user_id, content_id FROM {{ ref('fact_recommendation') }}
    UNION ALL
    SELECT 'fact_search_history', s.event_id, s.user_id, e.content_id
    FROM {{ ref('fact_search_history') }} s LEFT JOIN {{ ref('fact_event') }} e ON e.event_id = s.event_id
)
SELECT f.fact, f.event_id, f.user_id, f.content_id
FROM facts f
LEFT JOIN {{ ref('fact_event') }} e ON e.event_id = f.event_id
LEFT JOIN {{ ref('dim_user') }} u ON u.user_id = f.user_id
LEFT JOIN {{ ref('dim_device') }} d ON d.user_id = f.user_id
LEFT JOIN {{ ref('dim_location') }} l ON l.user_id = f.user_id
LEFT JOIN {{ ref('dim_user_subscription') }} s ON s.user_id = f.user_id
LEFT JOIN {{ ref('content') }} c ON c.content_id = f.content_id
WHERE e.event_id IS NULL OR u.user_id IS NULL OR d.user_id IS NULL OR l.user_id IS NULL OR s.user_id IS NULL
   OR c.content_id IS NULL
