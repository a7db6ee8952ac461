-- Cart lines that are counted more than once.
SELECT cart_id, movie_id, count(*) AS copies
FROM {{ ref('fact_checkout') }}
GROUP BY cart_id, movie_id
HAVING count(*) > 1
