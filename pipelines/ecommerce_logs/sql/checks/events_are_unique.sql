-- Events that are in the table more than once.
SELECT event_id, count(*) AS times
FROM {{ source('silver', 'kafka_events') }}
GROUP BY event_id
HAVING count(*) > 1
