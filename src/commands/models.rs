//! `tidemill models` and `tidemill checks`.
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use tidemill_etl::model::incremental::Class;
use tidemill_etl::model::{self, CheckEnd, Edge, End, Model, Project, Ran, Seed, Severity};
use tidemill_etl::output::text_table;
use tidemill_etl::table;

use super::{Context, model_explain};
use crate::cli::{Checks, Choice, Models};
use crate::failure::{Exit, Failure, Result, model_problem};
use crate::lakehouse::Lakehouse;
use crate::report::Unit;
use crate::tasks::count;

#[derive(Serialize)]
struct Row {
    model: String,
    table: String,
    kept_as: &'static str,
    reads: String,
    tags: String,
}

pub(super) async fn run(context: &Context, command: &Models) -> Result<Exit> {
    let house = Lakehouse::new(context.project()?);
    match command {
        Models::List(choice) => list(context, &house, choice),
        Models::Show { model } => {
            let models = house.models()?;
            for model in models.order(std::slice::from_ref(model))? {
                let file = house.project.shown(&model.file);
                context.report.note(format_args!("{} ({}, {})", model.table, model.materialization.name(), file));
                context.report.line(model.sql.trim())?;
            }
            Ok(Exit::Done)
        }
        Models::Check => check(context, &house).await,
        Models::Build { choice, jobs } => build(context, &house, choice, *jobs).await,
        Models::Test(choice) => {
            let (engine, models) = house.engine_with_models().await?;
            let chosen = models.select(&choice.selected(), &choice.exclude)?.checks;
            run_checks(context, &engine, &chosen).await
        }
        Models::Lineage { what } => lineage(context, &house, what).await,
        Models::Explain { model } => model_explain::explained(context, model).await,
        Models::Publications => publications(context, &house).await,
        Models::Rollback { to } => rollback(context, &house, *to).await,
        Models::Verify { model, engine } => model_explain::verified(context, model, *engine).await,
    }
}

fn list(context: &Context, house: &Lakehouse, choice: &Choice) -> Result<Exit> {
    let models = house.models()?;
    let chosen = models.select(&choice.selected(), &choice.exclude)?;
    let joined = |texts: &mut dyn Iterator<Item = String>| texts.collect::<Vec<_>>().join(", ");
    let seed = |seed: &&Seed| Row {
        model: seed.name.clone(),
        table: seed.table.to_string(),
        kept_as: "seed",
        reads: house.project.shown(&seed.file).to_string(),
        tags: joined(&mut seed.tags.iter().cloned()),
    };
    let model = |model: &&Model| Row {
        model: model.name.clone(),
        table: model.table.to_string(),
        kept_as: model.materialization.name(),
        reads: joined(&mut models.inputs(model).iter().map(ToString::to_string)),
        tags: joined(&mut model.tags.iter().cloned()),
    };
    let rows: Vec<Row> = chosen.seeds.iter().map(seed).chain(chosen.models.iter().map(model)).collect();
    context.report.rows(&rows)?;
    Ok(Exit::Done)
}

#[derive(Serialize)]
struct Problem {
    file: String,
    line: Option<usize>,
    what: String,
    why: Option<String>,
    fix: Option<String>,
    warning: bool,
}

async fn check(context: &Context, house: &Lakehouse) -> Result<Exit> {
    let (models, mut problems) = house.survey()?;
    let plans = model::plan_all(house.engine().await?, &models).await?;
    problems.extend(plans.problems);
    problems.extend(models.warnings.iter().cloned());
    let shown = |path: &Path| house.project.shown(path).to_string();
    if context.report.json() {
        let row = |problem: &model::ModelProblem| Problem {
            file: shown(&problem.file),
            line: problem.line(),
            what: problem.what.clone(),
            why: problem.why.clone(),
            fix: problem.fix.clone(),
            warning: problem.warning,
        };
        context.report.rows(&problems.iter().map(row).collect::<Vec<_>>())?;
    }
    for (file, note) in &models.notes {
        context.report.note(format_args!("{}: {note}", shown(file)));
    }
    for table in &plans.missing {
        context.report.note(format_args!("`{table}` is not there yet: what reads it was not looked at"));
    }
    let wrong = problems.iter().filter(|problem| !problem.warning).count();
    if !context.report.json()
        && let Some(failure) = Failure::all(problems.iter().map(|problem| model_problem(problem, &house.project.root)))
    {
        context.report.failure(&failure);
    }
    let (seeds, all, checks) = (models.seeds.len(), models.models.len(), models.checks.len());
    let found = if wrong == 0 { "nothing is wrong".to_owned() } else { format!("{wrong} problems") };
    context.report.note(format_args!("{seeds} seeds, {all} models, {checks} checks: {found}"));
    Ok(if wrong == 0 { Exit::Done } else { Exit::Invalid })
}

#[derive(Serialize)]
struct BuiltRow {
    model: String,
    table: String,
    version: Option<u64>,
    rows: Option<u64>,
    unchanged: bool,
    class: Option<Class>,
    changed: Option<(u64, u64)>,
    full_because: Option<String>,
    skipped_after: Option<String>,
    error: Option<String>,
}

async fn build(context: &Context, house: &Lakehouse, choice: &Choice, jobs: Option<u16>) -> Result<Exit> {
    let models = house.models()?;
    for warning in &models.warnings {
        context.report.failure(&model_problem(warning, &house.project.root));
    }
    let models = Arc::new(models);
    let chosen = models.select(&choice.selected(), &choice.exclude)?;
    let total = chosen.seeds.len() + chosen.models.len();
    let bar = context.report.bar("models", Some(total as u64), Unit::Things);
    let mut warned = Vec::new();
    let (ran, checked) = house
        .bring_up_to_date(
            &models,
            &chosen,
            jobs.map(usize::from),
            model::Showing::Each { by: None },
            &|| false,
            |ran, found| {
                bar.say(&ran.name);
                bar.advance(1);
                warned.extend(found);
            },
        )
        .await?;
    let rebuilt = ran.iter().filter(|ran| matches!(ran.end, End::Done { unchanged: false, .. })).count();
    let failed = ran.iter().filter(|ran| !matches!(ran.end, End::Done { .. })).count();
    let ending = if failed == 0 { String::new() } else { format!(", {failed} not") };
    bar.done(format_args!("{rebuilt} of {total} rebuilt{ending}"));
    if context.report.json() {
        context.report.rows(&ran.iter().map(built_row).collect::<Vec<_>>())?;
    }
    for outcome in &warned {
        context.report.note(format_args!("{} found {} rows (it only warns)", outcome.check, count(outcome.rows)));
    }
    for ran in &ran {
        if let End::Done { built: Some(built), .. } = &ran.end
            && let Some(why) = &built.full_because
        {
            context.report.note(format_args!("{} was computed whole: {why}", ran.name));
        }
    }
    let skipped = ran.iter().filter_map(|ran| match &ran.end {
        End::Skipped { after } => Some((&ran.name, after)),
        _ => None,
    });
    for (name, after) in skipped {
        context.report.note(format_args!("{name} was not built, as it reads {after}"));
    }
    let mut failures: Vec<Failure> = Vec::new();
    failures.extend(ran.into_iter().filter_map(|ran| match ran.end {
        End::Failed(error) => Some(Failure::from(error)),
        _ => None,
    }));
    let bad = tell_remaining(context, checked, &mut failures)?;
    let end = if bad == 0 { Exit::Done } else { Exit::Found };
    Failure::all(failures).map_or(Ok(end), Err)
}

/// What checks came to that nothing has waited for; how many found rows.
fn tell_remaining(context: &Context, checked: Vec<model::Checked<'_>>, failures: &mut Vec<Failure>) -> Result<usize> {
    let (mut ran, mut bad) = (0, 0);
    for model::Checked { check, end } in checked {
        match end {
            CheckEnd::Found(outcome) => {
                ran += 1;
                bad += usize::from(outcome.fails(check));
                tell_found(context, check, &outcome)?;
            }
            CheckEnd::Failed(error) => failures.push(Failure::from(error)),
            CheckEnd::Skipped { after } => {
                context.report.note(format_args!("{} was not run, as it reads {after}", check.name));
            }
        }
    }
    if ran > 0 {
        context.report.note(format_args!("{ran} checks afterwards, {bad} found rows"));
    }
    Ok(bad)
}

/// Shows the first rows that a check found, if it must not or should not find any.
fn tell_found(context: &Context, check: &model::Check, outcome: &model::CheckOutcome) -> Result<()> {
    let (failed, warns) = (outcome.fails(check), outcome.warns(check));
    let Some(sample) = outcome.sample.as_ref().filter(|_| failed || warns) else { return Ok(()) };
    let only = if failed { "" } else { " (it only warns)" };
    if context.report.json() {
        context.report.note(format_args!("{} found {} rows{only}", outcome.check, count(outcome.rows)));
        return Ok(());
    }
    context.report.note(format_args!("{} found {} rows{only}:", outcome.check, count(outcome.rows)));
    context.report.text(&text_table(std::slice::from_ref(sample))?)
}

fn built_row(ran: &Ran) -> BuiltRow {
    let mut row = BuiltRow {
        model: ran.name.clone(),
        table: ran.table.to_string(),
        version: None,
        rows: None,
        unchanged: false,
        class: None,
        changed: None,
        full_because: None,
        skipped_after: None,
        error: None,
    };
    match &ran.end {
        End::Done { version, rows, unchanged, built } => {
            (row.version, row.rows, row.unchanged) = (*version, *rows, *unchanged);
            if let Some(built) = built {
                (row.class, row.changed) = (built.class, built.changed);
                row.full_because.clone_from(&built.full_because);
            }
        }
        End::Failed(error) => row.error = Some(error.to_string()),
        End::Skipped { after } => row.skipped_after = Some(after.clone()),
    }
    row
}

/// Publications that are listed, the newest ones.
const LISTED: usize = 20;

#[derive(Serialize)]
struct PublicationRow {
    publication: u64,
    at: String,
    by: String,
    tables: String,
}

async fn publications(context: &Context, house: &Lakehouse) -> Result<Exit> {
    let lake = house.lake().await?;
    let mut rows = Vec::new();
    for number in lake.publications().await?.into_iter().rev().take(LISTED) {
        let Some(found) = lake.publication_at(number).await? else { continue };
        let tables = found.tables.iter().map(|(name, shown)| format!("{name}@{}", shown.version));
        rows.push(PublicationRow {
            publication: number,
            at: found.at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            by: found.why,
            tables: tables.collect::<Vec<_>>().join(", "),
        });
    }
    context.report.rows(&rows)?;
    if rows.is_empty() {
        context
            .report
            .note(format_args!("nothing was published together yet: `atomic = true` on a `models` task does it"));
    }
    Ok(Exit::Done)
}

async fn rollback(context: &Context, house: &Lakehouse, to: Option<u64>) -> Result<Exit> {
    let lake = house.lake().await?;
    let done = table::rollback(lake, to, house.clock.now()).await?;
    let keeper = house.keeper().await?;
    for (name, version) in &done.restored {
        keeper.committed(&name.parse().map_err(tidemill_etl::Error::from)?, *version);
    }
    if context.report.json() {
        context.report.rows(std::slice::from_ref(&done))?;
    }
    let (number, to, tables) = (done.publication, done.to, done.restored.len());
    context.report.note(format_args!("publication {number} shows what {to} did; {tables} tables were restored"));
    context.report.note(format_args!(
        "the next build brings them up to date again: pause its DAG, or mend the model, before that"
    ));
    Ok(Exit::Done)
}

async fn lineage(context: &Context, house: &Lakehouse, what: &str) -> Result<Exit> {
    let models = house.models()?;
    let plans = model::plan_all(house.engine().await?, &models).await?;
    let (name, column) = match what.split_once('.') {
        _ if models.models.contains_key(what) => (what, None),
        Some((name, column)) => (name, Some(column)),
        None => (what, None),
    };
    let Some(model) = models.models.get(name) else {
        return Err(Failure::unknown("model", name, models.models.keys().map(String::as_str)));
    };
    let Some(found) = model::lineage(&models, &plans, name) else {
        return Err(not_planned(&models, model, &plans, house));
    };
    if let Some(column) = column
        && !found.columns.iter().any(|(known, _)| known == column)
    {
        return Err(Failure::unknown("column", column, found.columns.iter().map(|(known, _)| known.as_str())));
    }
    let steps = model::lineage_above(&models, &plans, name, column);
    if context.report.json() {
        context.report.rows(&steps)?;
        return Ok(Exit::Done);
    }
    for (known, _) in found.columns.iter().filter(|(known, _)| column.is_none_or(|column| column == known)) {
        context.report.line(&format!("{}.{known}", model.name))?;
        tree(context, &steps, &found.table, known, 1)?;
    }
    for (edge, word) in [(Edge::Join, "joined by"), (Edge::Filter, "filtered by"), (Edge::Group, "grouped by")] {
        let mut from = steps.iter().filter(|step| step.table == found.table && step.edge == edge).peekable();
        if from.peek().is_some() {
            let names = from.map(|step| format!("{}.{}", step.from.table, step.from.column)).collect::<Vec<_>>();
            context.report.line(&format!("{word} {}", names.join(", ")))?;
        }
    }
    Ok(Exit::Done)
}

/// The columns that a column's values come from, each below the one it is in.
fn tree(context: &Context, steps: &[model::Step], table: &str, column: &str, depth: usize) -> Result<()> {
    let from = steps
        .iter()
        .filter(|step| step.edge == Edge::Value && step.table == table && step.column.as_deref() == Some(column));
    for step in from {
        context.report.line(&format!("{}{}.{}", "  ".repeat(depth), step.from.table, step.from.column))?;
        if step.from.table != table {
            tree(context, steps, &step.from.table, &step.from.column, depth + 1)?;
        }
    }
    Ok(())
}

fn not_planned(models: &Project, model: &Model, plans: &model::Plans, house: &Lakehouse) -> Failure {
    let problems = plans.problems.iter().filter(|problem| problem.file == model.file);
    Failure::all(problems.map(|problem| model_problem(problem, &house.project.root))).unwrap_or_else(|| {
        let missing: Vec<String> = plans.missing.iter().map(ToString::to_string).collect();
        let inputs = models.inputs(model).iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Failure::new("M0003", format!("cannot plan the model `{}`", model.name))
            .why(format!("it reads {inputs}; these tables are not there yet: {}", missing.join(", ")))
            .fix("run what writes them first, or describe their columns with `data_type` under `sources:`")
    })
}

#[derive(Serialize)]
struct Found {
    check: String,
    rows: u64,
    severity: &'static str,
    failed: bool,
}

pub(super) async fn checks(context: &Context, command: &Checks) -> Result<Exit> {
    let Checks::Run { select } = command;
    let house = Lakehouse::new(context.project()?);
    let (engine, models) = house.engine_with_models().await?;
    if let Some(unknown) = select.iter().find(|name| !models.checks.contains_key(*name)) {
        return Err(Failure::unknown("check", unknown, models.checks.keys().map(String::as_str)));
    }
    let chosen: Vec<&model::Check> =
        models.checks.values().filter(|check| select.is_empty() || select.contains(&check.name)).collect();
    run_checks(context, &engine, &chosen).await
}

async fn run_checks(
    context: &Context,
    engine: &tidemill_etl::engine::Engine,
    checks: &[&model::Check],
) -> Result<Exit> {
    let mut found = Vec::new();
    let mut failures: Vec<Failure> = Vec::new();
    for check in checks {
        // One that cannot be run does not keep the others from being run.
        let outcome = match model::check(engine, check).await {
            Ok(outcome) => outcome,
            Err(error) => {
                failures.push(error.into());
                continue;
            }
        };
        tell_found(context, check, &outcome)?;
        let severity = if check.severity == Severity::Error { "error" } else { "warn" };
        let failed = outcome.fails(check);
        found.push(Found { check: outcome.check, rows: outcome.rows, severity, failed });
    }
    let bad = found.iter().filter(|f| f.failed).count();
    if context.report.json() {
        context.report.rows(&found)?;
    }
    context.report.note(format_args!("{} checks, {bad} found rows", found.len()));
    let end = if bad == 0 { Exit::Done } else { Exit::Found };
    Failure::all(failures).map_or(Ok(end), Err)
}
