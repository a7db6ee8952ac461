{{ config(materialized='incremental') }}
-- Consumer segments.
-- Grain: one row a user; key `user_id`. Every user of dim_user has a row.
--   purchases            cart lines paid for, each counted once
--   views                item views
--   sign_ins             sign-ins (sessions)
--   purchase_segment     'High' (> 10) | 'Medium' (5-10) | 'Low' (1-4) | 'Inactive'
--   view_segment         'Frequent' (> 50) | 'Casual' (20-50) | 'Rare'
--   engagement_segment   'Highly Engaged' (> 20) | 'Moderately Engaged' (10-20) | 'Less Engaged'
-- The thresholds are variables: *_above is exclusive, *_from inclusive.
WITH purchases AS (
    SELECT user_id, count(*) AS purchases FROM {{ ref('fact_checkout') }} GROUP BY user_id
),
views AS (
    SELECT user_id, count(*) AS views FROM {{ ref('fact_view') }} GROUP BY user_id
),
sign_ins AS (
    SELECT user_id, count(*) AS sign_ins FROM {{ ref('fact_session') }} GROUP BY user_id
),
counted AS (
    SELECT u.user_id,
           coalesce(p.purchases, 0) AS purchases,
           coalesce(v.views, 0) AS views,
           coalesce(s.sign_ins, 0) AS sign_ins
    FROM {{ ref('dim_user') }} u
    LEFT JOIN purchases p ON p.user_id = u.user_id
    LEFT JOIN views v ON v.user_id = u.user_id
    LEFT JOIN sign_ins s ON s.user_id = u.user_id
)
SELECT user_id,
       purchases,
       views,
       sign_ins,
       CASE WHEN purchases > {{ var("purchases_high_above", 10) }} THEN 'High'
            WHEN purchases >= {{ var("purchases_medium_from", 5) }} THEN 'Medium'
            WHEN purchases >= {{ var("purchases_low_from", 1) }} THEN 'Low'
            ELSE 'Inactive' END AS purchase_segment,
       CASE WHEN views > {{ var("views_frequent_above", 50) }} THEN 'Frequent'
            WHEN views >= {{ var("views_casual_from", 20) }} THEN 'Casual'
            ELSE 'Rare' END AS view_segment,
       CASE WHEN sign_ins > {{ var("sign_ins_high_above", 20) }} THEN 'Highly Engaged'
            WHEN sign_ins >= {{ var("sign_ins_moderate_from", 10) }} THEN 'Moderately Engaged'
            ELSE 'Less Engaged' END AS engagement_segment
FROM counted
