{{ config(materialized='incremental', unique_key=['event_id', 'field', 'position']) }}
-- Dates inside landed events that no calendar has. The facts and dimensions have NULL in their place. (An event whose own time is
-- impossible is not landed at all: it is in bronze.dead_letters with the reason `event_time`.)
-- Grain: one row a date; key event, field and place in the field's list (1 where there is no list).
--   written   the text
--   reason    one phrase to count by
SELECT event_id, 'user_subscription.start_date' AS field, CAST(1 AS BIGINT) AS position,
       user_subscription['start_date'] AS written, 'no such day' AS reason
FROM {{ source('bronze', 'customer_events') }}
WHERE parse_date(user_subscription['start_date']) IS NULL
UNION ALL
SELECT event_id, 'user_action.timestamp', position, written_timestamp, 'no such day'
FROM {{ ref('fact_user_action') }}
WHERE action_timestamp IS NULL
UNION ALL
SELECT event_id, 'search_history.timestamp', position, written_timestamp, 'no such day'
FROM {{ ref('fact_search_history') }}
WHERE search_timestamp IS NULL
