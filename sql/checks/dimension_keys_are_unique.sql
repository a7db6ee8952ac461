-- Keys that a dimension has more than once, or a key that is missing.
SELECT 'dim_movie' AS dimension, movie_key AS key, count(*) AS copies
FROM {{ ref('dim_movie') }} GROUP BY movie_key HAVING count(*) > 1 OR movie_key IS NULL
UNION ALL
SELECT 'dim_user', user_id, count(*)
FROM {{ ref('dim_user') }} GROUP BY user_id HAVING count(*) > 1 OR user_id IS NULL
UNION ALL
SELECT 'dim_date', CAST(calendar_date AS VARCHAR), count(*)
FROM {{ ref('dim_date') }} GROUP BY calendar_date HAVING count(*) > 1 OR calendar_date IS NULL
