{{ config(materialized='incremental', unique_key='search_id') }}
-- What users had searched for when an event happened.
-- Grain: one row a search in an event; key `search_id`, a hash of the event and the search's place in it, from 1.
--   source_search_id   the id that the event gives it
--   search_timestamp   UTC; NULL: as written it names a day that does not exist, see impossible_dates
WITH searches AS (
    SELECT event_id, user_id, unnest(search_history) AS s, unnest(range(1, CAST(cardinality(search_history) AS BIGINT) + 1)) AS n
    FROM (
        SELECT event_id, user_id, search_history
        FROM {{ source('bronze', 'customer_events') }}
        WHERE cardinality(search_history) > 0
    )
)
SELECT CAST(md5(concat_ws('|', event_id, 'search', CAST(n AS VARCHAR))) AS VARCHAR) AS search_id,
       event_id,
       user_id,
       n AS position,
       s['search_id'] AS source_search_id,
       s['query'] AS query,
       s['results_count'] AS results_count,
       parse_instant(s['timestamp']) AS search_timestamp,
       s['timestamp'] AS written_timestamp
FROM searches
