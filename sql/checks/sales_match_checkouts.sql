-- Items whose sales are not the exact sum of their cart lines.
SELECT coalesce(s.movie_id, c.movie_id) AS movie_id, s.total_sales, c.total AS expected_sales, s.units, c.units AS expected_units
FROM {{ ref('movie_sales') }} s
FULL OUTER JOIN (
    SELECT movie_id, sum(purchase_amount) AS total, count(*) AS units
    FROM {{ ref('fact_checkout') }}
    GROUP BY movie_id
) c ON c.movie_id = s.movie_id
WHERE (s.total_sales IS DISTINCT FROM c.total) OR (s.units IS DISTINCT FROM c.units)
