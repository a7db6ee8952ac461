//! `[[triggers]]`: what starts runs.
use std::ops::Range;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeZone, Utc};
use toml_span::Value;

use super::fields::{Fields, a};
use super::problem::Problems;
use super::{CronTrigger, FileTrigger, Param, ParamType, Trigger};
use crate::schedule::CronSchedule;
use crate::suggest;
use crate::trigger::check_pattern;

#[derive(Clone, Copy)]
enum Kind {
    File,
    Cron,
    Continuous,
}

const KINDS: &[(&str, Kind)] = &[("file", Kind::File), ("cron", Kind::Cron), ("continuous", Kind::Continuous)];

/// What several events between two runs become. More ways will come; each is declared, never an accident of speed.
const BATCHES: &[(&str, ())] = &[("each", ())];

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
            fields.missing("kind", "`\"file\"`, `\"cron\"` or `\"continuous\"`", problems);
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
            Kind::Cron => {
                all.extend(cron(&mut fields, problems).map(|cron| Trigger::Cron(Box::new(cron))));
                None
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
    fields.choice("batch", BATCHES, problems);
    Some(FileTrigger { path: path?.0, param: param.map(|(name, _)| name), settle })
}

fn cron(fields: &mut Fields<'_, '_>, problems: &mut Problems<'_>) -> Option<CronTrigger> {
    let expression = fields.text("cron", problems);
    if expression.is_none() && fields.get("cron").is_none() {
        fields.missing("cron", "an expression such as \"0 11 * * *\"", problems);
    }
    let zone = fields.text("timezone", problems);
    let tz = match &zone {
        None => Some(chrono_tz::UTC),
        Some((name, span)) => {
            let found: Option<chrono_tz::Tz> = name.parse().ok();
            if found.is_none() {
                problems
                    .add(
                        "D0011",
                        span.clone(),
                        format!("unknown time zone `{name}`"),
                        "not in the IANA time zone database",
                    )
                    .fix(suggest::nearest(name, chrono_tz::TZ_VARIANTS.iter().map(|tz| tz.name())).map_or_else(
                        || Some("use a name such as `UTC` or `Europe/Berlin`".to_owned()),
                        |near| Some(format!("did you mean `{near}`?")),
                    ));
            }
            found
        }
    };
    let start = fields.text("start", problems).and_then(|(text, span)| {
        let instant = instant(&text, tz.unwrap_or(chrono_tz::UTC));
        if instant.is_none() {
            problems
                .add(
                    "D0013",
                    span,
                    format!("`start` of {} is not an instant", fields.name),
                    "expected a date or a date with a time",
                )
                .fix(Some(
                    "write \"2026-01-31\", \"2026-01-31T11:00:00\" (in `timezone`) or \"2026-01-31T11:00:00Z\""
                        .to_owned(),
                ));
        }
        instant
    });
    let catch_up = fields.boolean("catch_up", problems).unwrap_or(false);
    let (text, span) = expression?;
    match CronSchedule::new(&text, tz.unwrap_or(chrono_tz::UTC)) {
        Ok(schedule) => Some(CronTrigger { schedule, start, catch_up }),
        Err(trouble) => {
            problems
                .add("D0010", span, format!("`{text}` is not a cron expression"), trouble)
                .fix(Some("five fields: minute hour day-of-month month day-of-week; six put seconds first".to_owned()));
            None
        }
    }
}

/// Reads an instant: with an offset as it is, without one in `tz` (the earlier of two, none in a gap).
fn instant(text: &str, tz: chrono_tz::Tz) -> Option<DateTime<Utc>> {
    if let Ok(instant) = DateTime::parse_from_rfc3339(text) {
        return Some(instant.with_timezone(&Utc));
    }
    let local = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S")
        .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S"))
        .ok()
        .or_else(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0))?;
    tz.from_local_datetime(&local).earliest().map(|instant| instant.with_timezone(&Utc))
}
