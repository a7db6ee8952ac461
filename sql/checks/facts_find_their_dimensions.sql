-- Facts that point to an item, a user or a day that its dimension does not have.
WITH facts AS (
    SELECT 'fact_view' AS fact, movie_key, user_id, view_date AS day FROM {{ ref('fact_view') }}
    UNION ALL SELECT 'fact_cart', movie_key, user_id, add_date FROM {{ ref('fact_cart') }}
    UNION ALL SELECT 'fact_checkout', movie_key, user_id, checkout_date FROM {{ ref('fact_checkout') }}
    UNION ALL SELECT 'fact_session', 'unknown', user_id, start_date FROM {{ ref('fact_session') }}
)
SELECT f.fact, f.movie_key, f.user_id, f.day
FROM facts f
LEFT JOIN {{ ref('dim_movie') }} m ON m.movie_key = f.movie_key
LEFT JOIN {{ ref('dim_user') }} u ON u.user_id = f.user_id
LEFT JOIN {{ ref('dim_date') }} d ON d.calendar_date = f.day
WHERE m.movie_key IS NULL OR u.user_id IS NULL OR d.calendar_date IS NULL
