//! `tidemill models` and `tidemill checks`.
use serde::Serialize;
use tidemill_etl::model::{self, Materialization, Model};
use tidemill_etl::output::text_table;

use super::{Context, model_explain};
use crate::cli::{Checks, Models};
use crate::failure::{Exit, Failure, Result};
use crate::lakehouse::Lakehouse;
use crate::tasks::count;

#[derive(Serialize)]
struct Row {
    model: String,
    table: String,
    kept_as: &'static str,
    reads: String,
}

pub(super) async fn run(context: &Context, command: &Models) -> Result<Exit> {
    match command {
        Models::Explain { model } => return model_explain::explained(context, model).await,
        Models::Verify { model, engine } => return model_explain::verified(context, model, *engine).await,
        _ => {}
    }
    let house = Lakehouse::new(context.project()?);
    let models = house.models()?;
    match command {
        Models::List => {
            let row = |model: &&Model| Row {
                model: model.name.clone(),
                table: model.table.to_string(),
                kept_as: kept_as(model),
                reads: models.inputs(model).iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            };
            context.report.rows(&models.order(&[])?.iter().map(row).collect::<Vec<_>>())?;
        }
        Models::Show { model } => {
            for model in models.order(std::slice::from_ref(model))? {
                let file = house.project.shown(&model.file);
                context.report.note(format_args!("{} ({}, {})", model.table, kept_as(model), file));
                context.report.line(model.sql.trim())?;
            }
        }
        // Both are done above.
        Models::Explain { .. } | Models::Verify { .. } => {}
        Models::Build { select } => {
            let (engine, models) = house.engine_with_models().await?;
            let order = models.order(select)?;
            let bar = context.report.bar("models", Some(order.len() as u64), crate::report::Unit::Things);
            let mut built = Vec::new();
            for model in order {
                bar.say(&model.name);
                built.push(model::build(&engine, &models, model, house.clock.now()).await?);
                bar.advance(1);
            }
            for model in &built {
                if let Some(why) = &model.full_because {
                    context.report.note(format_args!("{} was computed whole: {why}", model.model));
                }
            }
            let rebuilt = built.iter().filter(|b| !b.unchanged).count();
            bar.done(format_args!("{rebuilt} of {} rebuilt", built.len()));
            if context.report.json() {
                context.report.rows(&built)?;
            }
        }
    }
    Ok(Exit::Done)
}

fn kept_as(model: &Model) -> &'static str {
    match model.materialization {
        Materialization::View => "view",
        Materialization::Table => "table",
        Materialization::Incremental => "incremental",
    }
}

#[derive(Serialize)]
struct Found {
    check: String,
    rows: u64,
}

pub(super) async fn checks(context: &Context, command: &Checks) -> Result<Exit> {
    let Checks::Run { select } = command;
    let house = Lakehouse::new(context.project()?);
    let (engine, models) = house.engine_with_models().await?;
    if let Some(unknown) = select.iter().find(|name| !models.checks.contains_key(*name)) {
        return Err(Failure::unknown("check", unknown, models.checks.keys().map(String::as_str)));
    }
    let mut found = Vec::new();
    for check in models.checks.values().filter(|check| select.is_empty() || select.contains(&check.name)) {
        let outcome = model::check(&engine, check).await?;
        if let Some(sample) = &outcome.sample
            && !context.report.json()
        {
            context.report.note(format_args!("{} found {} rows:", outcome.check, count(outcome.rows)));
            context.report.text(&text_table(std::slice::from_ref(sample))?)?;
        }
        found.push(Found { check: outcome.check, rows: outcome.rows });
    }
    let bad = found.iter().filter(|f| f.rows > 0).count();
    if context.report.json() {
        context.report.rows(&found)?;
    }
    context.report.note(format_args!("{} checks, {bad} found rows", found.len()));
    Ok(if bad == 0 { Exit::Done } else { Exit::Found })
}
