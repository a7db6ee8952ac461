//! When the clock will start what: of an expression with a chosen policy for changes of clocks, and of a project's DAGs, a year ahead.
use std::path::Path;

use serde_json::{Value, json};

use super::project::Project;
use super::{texts, tidemill};

/// What `tidemill schedule` prints, without any project.
fn schedule(arguments: &[&str]) -> Vec<String> {
    let output = tidemill(Path::new("/")).arg("schedule").args(arguments).output().unwrap();
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{err}");
    out.lines().map(str::to_owned).collect()
}

#[test]
fn an_expression_ticks_as_its_zone_and_policy_say() {
    let night = ["--cron", "30 2 * * *", "--tz", "America/New_York", "--from", "2026-03-07T12:00:00", "--next", "1"];
    for (gap, wanted) in [
        ("skip", "2026-03-09T02:30:00-04:00"),
        ("next", "2026-03-08T03:00:00-04:00"),
        ("offset", "2026-03-08T03:30:00-04:00"),
    ] {
        assert_eq!(schedule(&[&night[..], &["--gap", gap]].concat()), [wanted]);
    }
    let twice = ["--cron", "30 1 * * *", "--tz", "America/New_York", "--from", "2026-10-31T12:00:00Z", "--next", "2"];
    for (overlap, wanted) in [
        ("first", ["2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"]),
        ("second", ["2026-11-01T01:30:00-05:00", "2026-11-02T01:30:00-05:00"]),
        ("both", ["2026-11-01T01:30:00-04:00", "2026-11-01T01:30:00-05:00"]),
    ] {
        assert_eq!(schedule(&[&twice[..], &["--overlap", overlap]].concat()), wanted);
    }
    let json = schedule(&["--json", "--cron", "@monthly", "--from", "2026-01-31", "--next", "1"]).concat();
    let wanted = json!([{"at": "2026-02-01T00:00:00+00:00", "utc": "2026-02-01T00:00:00Z"}]);
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), wanted);
    let days =
        schedule(&["--cron", "0 9 * * 1-5", "--from", "2026-12-24", "--next", "7d", "--exclude-date", "2026-12-25"]);
    assert_eq!(
        days.iter().map(|day| day.get(..10).unwrap()).collect::<Vec<_>>(),
        ["2026-12-24", "2026-12-28", "2026-12-29", "2026-12-30"]
    );
}

#[test]
fn what_is_no_schedule_is_a_mistake_of_the_command_line() {
    for (arguments, told) in [
        (vec!["--cron", "61 * * * *"], "minute `61`"),
        (vec!["--cron", "0 0 30 2 *"], "never ticks"),
        (vec!["--cron", "@daily", "--tz", "Europe/Berln"], "`Europe/Berlin`"),
        (vec!["--cron", "@daily", "--from", "yesterday"], "not an instant"),
        (vec!["--cron", "@daily", "--gap", "jump"], "offset"),
    ] {
        let output = tidemill(Path::new("/")).arg("schedule").args(&arguments).output().unwrap();
        let (_, err) = texts(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {err}");
        assert!(err.contains(told), "{arguments:?}: {err}");
    }
}

#[test]
fn a_year_of_a_projects_dags_in_order() {
    let project = Project::new();
    project.write("dags/holidays.txt", "# of the year\n2027-01-01\n");
    project.write(
        "dags/monthly.toml",
        "[[triggers]]\nkind = \"cron\"\ncron = \"0 6 1 * *\"\ntimezone = \"Europe/Berlin\"\nexclude_dates = [\"holidays.txt\"]\n[tasks.a]\nkind = \"shell\"\ncommand = \"true\"\n",
    );
    project.write(
        "dags/often.toml",
        "[[triggers]]\nkind = \"every\"\nevery = \"12h\"\nstart = \"2026-11-24\"\n[tasks.a]\nkind = \"shell\"\ncommand = \"true\"\n",
    );

    let monthly = project.json(&["--json", "schedule", "monthly", "--from", "2026-11-24", "--next", "365d"]);
    let all = project.json(&["--json", "schedule", "--from", "2026-11-30", "--next", "3"]);

    let starts: Vec<&str> = monthly.as_array().unwrap().iter().map(|row| row["at"].as_str().unwrap()).collect();
    assert_eq!(starts.len(), 11, "twelve months but for the holiday: {starts:?}");
    assert_eq!(starts[..2], ["2026-12-01T06:00:00+01:00", "2027-02-01T06:00:00+01:00"]);
    assert_eq!(
        monthly[1]["interval_start"], "2026-12-01T05:00:00Z",
        "the interval goes on over the day that does not count"
    );
    let order: Vec<String> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|row| format!("{} {}", row["dag"].as_str().unwrap(), row["at"].as_str().unwrap()))
        .collect();
    assert_eq!(
        order,
        ["often 2026-11-30T12:00:00+00:00", "often 2026-12-01T00:00:00+00:00", "monthly 2026-12-01T06:00:00+01:00"]
    );
    project.fails(2, &["schedule", "monthyl"]);
}
