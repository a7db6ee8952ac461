{{ config(materialized='table') }}
-- Days, UTC.
-- Grain: one row a day, without gaps, from the first event of any kind to the last; key `calendar_date`.
-- The range comes from the events alone, so the same events give the same table on any day.
--   year, quarter (1-4), month (1-12), day_of_month (1-31)
--   iso_week             1-53, ISO 8601
--   day_of_week          1 Monday … 7 Sunday
--   month_name, day_name English
--   weekend              Saturday or Sunday
WITH span AS (
    SELECT CAST(min(first_seen_at) AS DATE) AS first_day,
           CAST(max(last_seen_at) AS DATE) AS last_day
    FROM {{ ref('dim_user') }}
),
days AS (
    SELECT unnest(generate_series(first_day, last_day, INTERVAL '1 day')) AS calendar_date
    FROM span
    WHERE first_day IS NOT NULL
),
numbered AS (
    -- dow counts from Sunday = 0; ISO counts from Monday = 1.
    SELECT calendar_date, (CAST(date_part('dow', calendar_date) AS INT) + 6) % 7 + 1 AS day_of_week
    FROM days
)
SELECT calendar_date,
       CAST(date_part('year', calendar_date) AS INT) AS year,
       CAST(date_part('quarter', calendar_date) AS INT) AS quarter,
       CAST(date_part('month', calendar_date) AS INT) AS month,
       CAST(date_part('day', calendar_date) AS INT) AS day_of_month,
       CAST(date_part('week', calendar_date) AS INT) AS iso_week,
       CAST(day_of_week AS INT) AS day_of_week,
       to_char(calendar_date, '%B') AS month_name,
       to_char(calendar_date, '%A') AS day_name,
       day_of_week >= 6 AS weekend
FROM numbered
