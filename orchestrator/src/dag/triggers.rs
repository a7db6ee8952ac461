//! `[[triggers]]`: what starts runs.
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeZone, Utc};
use chrono_tz::Tz;
use toml_span::Value;

use super::fields::{Fields, a};
use super::problem::Problems;
use super::{BATCHES, Batch, EventOf, EventTrigger, FileTrigger, Param, ParamType, ScheduleTrigger, Trigger};
use crate::schedule::calendar::{read_date, read_dates};
use crate::schedule::clock_change::{GAPS, OVERLAPS};
use crate::schedule::{Calendar, ClockChange, Schedule};
use crate::suggest;
use crate::trigger::check_pattern;

#[derive(Clone, Copy)]
enum Kind {
    File,
    Cron,
    Every,
    Dag,
    Table,
    Continuous,
}

const KINDS: &[(&str, Kind)] = &[
    ("file", Kind::File),
    ("cron", Kind::Cron),
    ("every", Kind::Every),
    ("dag", Kind::Dag),
    ("table", Kind::Table),
    ("continuous", Kind::Continuous),
];

/// What several events between two runs become. More ways will come; each is declared, never an accident of speed.
const OF_FILES: &[(&str, ())] = &[("each", ())];

pub(super) fn triggers(
    value: &Value<'_>,
    params: &[(Param, Range<usize>)],
    problems: &mut Problems<'_>,
) -> Vec<Trigger> {
    let Some(items) = value.as_array() else {
        let found = a(value.as_ref().type_str());
        problems
            .add(
                "D0005",
                value.span,
                "`triggers` must be a list of tables",
                format!("expected `[[triggers]]`, found {found}"),
            )
            .fix(Some("write `[[triggers]]` with two brackets".to_owned()));
        return Vec::new();
    };
    let mut all = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let header = item.span.start..item.span.start;
        let Some(mut fields) = Fields::new(item, format!("trigger {}", index + 1), header, problems) else { continue };
        let place: Range<usize> = fields.get("kind").map_or_else(|| fields.header.clone(), |value| value.span.into());
        if fields.get("kind").is_none() {
            fields.missing(
                "kind",
                "`\"file\"`, `\"cron\"`, `\"every\"`, `\"dag\"`, `\"table\"` or `\"continuous\"`",
                problems,
            );
            continue;
        }
        let Some(kind) = fields.choice("kind", KINDS, problems) else { continue };
        let given = match kind {
            Kind::File => {
                let trigger = file(&mut fields, params, problems);
                let given = trigger.as_ref().and_then(|trigger| trigger.param.clone());
                all.extend(trigger.map(Trigger::File));
                given
            }
            Kind::Cron | Kind::Every => {
                let schedule = schedule(&mut fields, matches!(kind, Kind::Cron), problems);
                all.extend(schedule.map(|schedule| Trigger::Schedule(Box::new(schedule))));
                None
            }
            Kind::Dag | Kind::Table => {
                let trigger = event(&mut fields, matches!(kind, Kind::Dag), params, problems);
                let given = trigger.as_ref().and_then(|trigger| trigger.param.clone());
                all.extend(trigger.map(Trigger::Event));
                given
            }
            Kind::Continuous => {
                all.push(Trigger::Continuous);
                None
            }
        };
        fields.finish(problems);
        for (param, _) in
            params.iter().filter(|(param, _)| param.default.is_none() && Some(&param.name) != given.as_ref())
        {
            problems
                .add(
                    "D0019",
                    place.clone(),
                    format!("trigger {} starts runs without param `{}`", index + 1, param.name),
                    "cannot give the param a value",
                )
                .why("the param has no default")
                .fix(Some(format!("give `[params.{}]` a `default`", param.name)));
        }
    }
    all
}

fn file(
    fields: &mut Fields<'_, '_>,
    params: &[(Param, Range<usize>)],
    problems: &mut Problems<'_>,
) -> Option<FileTrigger> {
    let path = fields.text("path", problems);
    if path.is_none() && fields.get("path").is_none() {
        fields.missing("path", "a pattern such as \"data/inbox/*.csv\", relative to the project folder", problems);
    }
    if let Some((pattern, span)) = &path
        && let Err(trouble) = check_pattern(pattern)
    {
        problems.add("D0013", span.clone(), format!("`{pattern}` is not a usable file pattern"), trouble);
    }
    let param = fields.text("param", problems);
    if let Some((name, span)) = &param {
        match params.iter().find(|(param, _)| param.name == *name) {
            None => {
                problems.add("D0015", span.clone(), format!("param `{name}` is not declared"), "no such param").fix(
                    suggest::nearest(name, params.iter().map(|(param, _)| param.name.as_str())).map_or_else(
                        || Some(format!("declare it: `[params.{name}]` with `type = \"string\"`")),
                        |near| Some(format!("did you mean `{near}`?")),
                    ),
                );
            }
            Some((found, _)) if found.r#type != ParamType::String => {
                problems.add(
                    "D0017",
                    span.clone(),
                    format!("param `{name}` cannot take a path"),
                    format!("its type is {}, a path is a string", found.r#type.name()),
                );
            }
            Some(_) => {}
        }
    }
    let settle = fields.duration("settle", problems).unwrap_or(Duration::from_secs(2));
    fields.choice("batch", OF_FILES, problems);
    let marker = fields.text("marker", problems);
    if let Some((marker, span)) = &marker
        && (marker.is_empty() || marker.contains('/'))
    {
        let what = format!("`marker` of {} is no end of a file name", fields.name);
        problems.add("D0013", span.clone(), what, "expected an end of a name such as \".done\"");
    }
    let min_size = u64::from(fields.count("min_size", 1, problems).unwrap_or_default());
    let (param, marker) = (param.map(|(name, _)| name), marker.map(|(marker, _)| marker));
    Some(FileTrigger { path: path?.0, param, settle, marker, min_size })
}

/// A trigger by what happens to another DAG or to a table.
fn event(
    fields: &mut Fields<'_, '_>,
    of_dag: bool,
    params: &[(Param, Range<usize>)],
    problems: &mut Problems<'_>,
) -> Option<EventTrigger> {
    let (key, about) =
        if of_dag { ("dag", "the name of another DAG") } else { ("table", "a table such as \"silver.movies\"") };
    let named = fields.text(key, problems);
    if named.is_none() && fields.get(key).is_none() {
        fields.missing(key, about, problems);
    }
    let batch = fields.choice("batch", BATCHES, problems).unwrap_or_default();
    let any_end = of_dag && fields.choice("when", ENDS, problems).unwrap_or_default();
    let param = fields.text("param", problems);
    let (wanted, what) = match batch {
        Batch::Each => (ParamType::Object, "one event is an object"),
        Batch::All => (ParamType::Array, "all events are an array"),
    };
    if let Some((name, span)) = &param {
        match params.iter().find(|(param, _)| param.name == *name) {
            Some((found, _)) if found.r#type == wanted => {}
            Some((found, _)) => {
                let label = format!("its type is {}, {what}", found.r#type.name());
                problems.add("D0017", span.clone(), format!("param `{name}` cannot take what happened"), label);
            }
            None => {
                let fix = format!("declare it: `[params.{name}]` with `type = \"{}\"`", wanted.name());
                problems
                    .add("D0015", span.clone(), format!("param `{name}` is not declared"), "no such param")
                    .fix(suggest::hint(name, params.iter().map(|(param, _)| param.name.as_str())).or(Some(fix)));
            }
        }
    }
    let (name, span) = named?;
    let of = if of_dag { EventOf::Dag { dag: name, any_end } } else { EventOf::Table(name) };
    if let EventOf::Table(table) = &of
        && table.split('.').filter(|part| super::parse::good_name(part)).count() != 2
    {
        let what = format!("`{table}` is no name of a table");
        problems.add("D0013", span, what, "expected `schema.table`");
    }
    Some(EventTrigger { of, batch, param: param.map(|(name, _)| name) })
}

/// After which ends of a run another DAG starts.
const ENDS: &[(&str, bool)] = &[("success", false), ("any", true)];

/// A trigger by the clock: by a cron expression, or every so often.
fn schedule(fields: &mut Fields<'_, '_>, by_cron: bool, problems: &mut Problems<'_>) -> Option<ScheduleTrigger> {
    let found = problems.found.len();
    let tz = zone(fields, problems);
    let start = start(fields, tz, problems);
    let beat = if by_cron { cron(fields, tz, problems) } else { every(fields, tz, start, problems) };
    let calendar = Calendar {
        only: fields.get("include_dates").is_some().then(|| dates(fields, "include_dates", problems)),
        never: dates(fields, "exclude_dates", problems),
    };
    let catch_up = fields.boolean("catch_up", problems).unwrap_or(false);
    let catch_up_limit = fields.count("catch_up_limit", 1, problems);
    let schedule = beat?.with_calendar(calendar);
    // A schedule with a fault has been reported; only of a sound one can be said that it never ticks.
    if problems.found.len() == found && schedule.next(DateTime::UNIX_EPOCH, true).is_none() {
        problems
            .add(
                "D0010",
                fields.header.clone(),
                format!("{} never ticks", fields.name),
                "no day counts on which it would",
            )
            .fix(Some("check `include_dates` and `exclude_dates` against the expression".to_owned()));
    }
    Some(ScheduleTrigger { schedule, start, catch_up, catch_up_limit })
}

fn zone(fields: &mut Fields<'_, '_>, problems: &mut Problems<'_>) -> Tz {
    let Some((name, span)) = fields.text("timezone", problems) else { return Tz::UTC };
    name.parse().unwrap_or_else(|_| {
        problems.add("D0011", span, format!("unknown time zone `{name}`"), "not in the IANA time zone database").fix(
            suggest::nearest(&name, chrono_tz::TZ_VARIANTS.iter().map(|tz| tz.name())).map_or_else(
                || Some("use a name such as `UTC` or `Europe/Berlin`".to_owned()),
                |near| Some(format!("did you mean `{near}`?")),
            ),
        );
        Tz::UTC
    })
}

fn start(fields: &mut Fields<'_, '_>, tz: Tz, problems: &mut Problems<'_>) -> Option<DateTime<Utc>> {
    let (text, span) = fields.text("start", problems)?;
    let instant = parse_instant(&text, tz);
    if instant.is_none() {
        problems
            .add(
                "D0013",
                span,
                format!("`start` of {} is not an instant", fields.name),
                "expected a date or a date with a time",
            )
            .fix(Some(
                "write \"2026-01-31\", \"2026-01-31T11:00:00\" (in `timezone`) or \"2026-01-31T11:00:00Z\"".to_owned(),
            ));
    }
    instant
}

fn cron(fields: &mut Fields<'_, '_>, tz: Tz, problems: &mut Problems<'_>) -> Option<Schedule> {
    let expression = fields.text("cron", problems);
    if expression.is_none() && fields.get("cron").is_none() {
        fields.missing("cron", "an expression such as \"0 11 * * *\"", problems);
    }
    let clocks = ClockChange {
        gap: fields.choice("gap", GAPS, problems).unwrap_or_default(),
        overlap: fields.choice("overlap", OVERLAPS, problems).unwrap_or_default(),
    };
    let (text, span) = expression?;
    match Schedule::cron(&text, tz) {
        Ok(schedule) => Some(schedule.with_clocks(clocks)),
        Err(trouble) => {
            problems
                .add("D0010", span, format!("`{text}` is not a cron expression"), trouble)
                .fix(Some("five fields: minute hour day-of-month month day-of-week; six put seconds first".to_owned()));
            None
        }
    }
}

fn every(
    fields: &mut Fields<'_, '_>,
    tz: Tz,
    start: Option<DateTime<Utc>>,
    problems: &mut Problems<'_>,
) -> Option<Schedule> {
    let given = fields.get("every").map(|value| Range::from(value.span));
    if given.is_none() {
        fields.missing("every", "a duration such as \"15m\"", problems);
    }
    let every = fields.duration("every", problems)?;
    match Schedule::every(every, start.unwrap_or(DateTime::UNIX_EPOCH), tz) {
        Ok(schedule) => Some(schedule),
        Err(trouble) => {
            let what = format!("`every` of {} is out of range", fields.name);
            problems.add("D0013", given.unwrap_or_default(), what, trouble);
            None
        }
    }
}

/// Dates, and files of them beside the DAG file.
fn dates(fields: &mut Fields<'_, '_>, key: &'static str, problems: &mut Problems<'_>) -> BTreeSet<NaiveDate> {
    let mut all = BTreeSet::new();
    for (text, span) in fields.texts(key, problems) {
        if let Some(date) = read_date(&text) {
            all.insert(date);
            continue;
        }
        let what = format!("`{text}` in `{key}` of {} is neither a date nor a file of dates", fields.name);
        let path = problems.file.parent().unwrap_or_else(|| Path::new("")).join(&text);
        let trouble = match std::fs::read_to_string(&path).map(|text| read_dates(&text)) {
            Ok(Ok(dates)) => {
                all.extend(dates);
                continue;
            }
            Ok(Err((line, found))) => format!("line {line} of the file is `{found}`"),
            Err(error) => error.to_string(),
        };
        problems.add("D0013", span, what, trouble).fix(Some(
            "write \"2026-12-25\", or the path of a file of such dates, one a line, relative to the DAG file"
                .to_owned(),
        ));
    }
    all
}

/// Reads an instant: with an offset as it is, without one in `tz` (the earlier of two, none in a gap). A date is its midnight.
pub fn parse_instant(text: &str, tz: Tz) -> Option<DateTime<Utc>> {
    let text = text.trim();
    let with_offset = DateTime::parse_from_rfc3339(text)
        .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f%z"))
        .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M%#z"));
    if let Ok(instant) = with_offset {
        return Some(instant.with_timezone(&Utc));
    }
    let local = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
        .or_else(|| read_date(text)?.and_hms_opt(0, 0, 0))?;
    tz.from_local_datetime(&local).earliest().map(|instant| instant.with_timezone(&Utc))
}
