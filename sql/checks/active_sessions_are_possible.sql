-- Counts of open sessions below zero, or above the highest of their hour.
SELECT measured_at, active_sessions, hour_start, hour_max_sessions
FROM {{ ref('active_sessions') }}
WHERE active_sessions < 0 OR active_sessions > hour_max_sessions
