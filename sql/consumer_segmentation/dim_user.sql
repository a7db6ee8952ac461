{{ config(materialized='incremental') }}
-- Users.
-- Grain: one row a user; key `user_id`. Whoever appears in any event has a row, so every fact finds its user;
-- who never registered (or not yet) has NULL attributes and is corrected when the registration arrives.
-- A user who registered more than once keeps the first registration: earliest event time, then partition and offset.
--   user_id             text, as written
--   registered_at       UTC, event time of the first registration; NULL: none seen
--   age                 years
--   masked_email        as written
--   preferred_language  as written; blank is NULL
--   first_seen_at, last_seen_at   UTC, event times of the user's first and last event of any kind
WITH registrations AS (
    SELECT user_id, event_at, age, masked_email, preferred_language,
           row_number() OVER (PARTITION BY user_id ORDER BY event_at, _partition, _offset) AS nth
    FROM {{ source('bronze', 'consumer_registration_topic') }}
),
events AS (
    SELECT user_id, event_at FROM {{ source('bronze', 'consumer_registration_topic') }}
    UNION ALL SELECT user_id, event_at FROM {{ source('bronze', 'sign_in_topic') }}
    UNION ALL SELECT user_id, event_at FROM {{ source('bronze', 'sign_out_topic') }}
    UNION ALL SELECT user_id, event_at FROM {{ source('bronze', 'item_view_topic') }}
    UNION ALL SELECT user_id, event_at FROM {{ source('bronze', 'added_to_cart_topic') }}
    UNION ALL SELECT user_id, event_at FROM {{ source('bronze', 'checkout_to_cart_topic') }}
),
seen AS (
    SELECT user_id, min(event_at) AS first_seen_at, max(event_at) AS last_seen_at
    FROM events
    GROUP BY user_id
)
SELECT s.user_id,
       r.event_at AS registered_at,
       r.age,
       r.masked_email,
       nullif(trim(r.preferred_language), '') AS preferred_language,
       s.first_seen_at,
       s.last_seen_at
FROM seen s
LEFT JOIN registrations r ON r.user_id = s.user_id AND r.nth = 1
