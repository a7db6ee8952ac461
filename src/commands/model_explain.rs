//! `tidemill models explain` and `tidemill models verify`: how a model keeps up with its inputs, and whether it does.
use tidemill_etl::engine::{Engine, Rows};
use tidemill_etl::model::incremental::{Explained, InputClass, explain, verify};
use tidemill_etl::model::{Model, Project};
use tidemill_etl::output::text_table;

use super::Context;
use crate::cli::EngineName;
use crate::failure::{Exit, Failure, Result};
use crate::lakehouse::Lakehouse;
use crate::settings::ByteSize;
use crate::tasks::count;

fn the_model<'a>(models: &'a Project, name: &str) -> Result<&'a Model> {
    let found =
        models.models.get(name).or_else(|| models.models.values().find(|model| model.table.to_string() == name));
    found.ok_or_else(|| Failure::unknown("model", name, models.models.keys().map(String::as_str)))
}

/// Says how one model is brought up to date, running nothing.
pub(super) async fn explained(context: &Context, name: &str) -> Result<Exit> {
    let house = Lakehouse::new(context.project()?);
    let (engine, models) = house.engine_with_models().await?;
    let model = the_model(&models, name)?;
    let found = explain(&engine, &models, model).await?;
    if context.report.json() {
        context.report.one(&found)?;
        return Ok(Exit::Done);
    }
    let Explained { model, class, inputs, pending } = &found;
    context.report.line(&format!("{model}: {class} when rows are appended"))?;
    for input in inputs {
        described(context, input)?;
    }
    for waits in pending {
        let from = waits.from.map_or_else(|| "never read".to_owned(), |from| format!("read up to version {from}"));
        let what = match &waits.unknown {
            Some(why) => format!("what changed is not known: {why}"),
            None if waits.files == 0 => "nothing to read".to_owned(),
            None => format!("{} files to read, {}", count(waits.files as u64), ByteSize(waits.bytes)),
        };
        context.report.line(&format!("  {} at version {}, {from}: {what}", waits.input, waits.to))?;
    }
    Ok(Exit::Done)
}

fn described(context: &Context, input: &InputClass) -> Result<()> {
    let what = if input.when == "appended" { "rows appended" } else { "rows changed or deleted" };
    context.report.line(&format!("  {}, {what}: {}", input.input, input.class))?;
    for step in &input.keys {
        context.report.line(&format!("    by ({}): {}", step.key.join(", "), step.what))?;
    }
    if let Some(why) = &input.why {
        context.report.line(&format!("    {why}"))?;
    }
    Ok(())
}

/// Compares one model's table with all of its SELECT.
pub(super) async fn verified(context: &Context, name: &str, by: EngineName) -> Result<Exit> {
    let house = Lakehouse::new(context.project()?);
    let (engine, models) = house.engine_with_models().await?;
    let model = the_model(&models, name)?;
    let other = match by {
        EngineName::Datafusion => None,
        EngineName::Polars => Some(elsewhere(&engine, &models, model).await?),
    };
    let found = verify(&engine, &models, model, other).await?;
    if context.report.json() {
        context.report.one(&found)?;
    } else {
        let inputs = found.inputs.iter().map(|(name, version)| format!("{name} at version {version}"));
        let inputs = inputs.collect::<Vec<_>>().join(", ");
        let says = if found.equal() {
            format!("{name}: all {} rows of version {} are what its SELECT gives", count(found.rows), found.version)
        } else {
            let (missing, surplus) = (count(found.missing), count(found.surplus));
            format!(
                "{name}: version {} lacks {missing} rows and has {surplus} that its SELECT does not give",
                found.version
            )
        };
        context.report.line(&format!("{says} ({inputs})"))?;
        for (what, rows) in [("missing:", &found.missing_rows), ("too many:", &found.surplus_rows)] {
            if let Some(rows) = rows {
                context.report.line(what)?;
                context.report.text(&text_table(std::slice::from_ref(rows))?)?;
            }
        }
    }
    Ok(if found.equal() { Exit::Done } else { Exit::Found })
}

/// The rows that Polars gives for the SELECT, over the newest versions of its inputs: those must be the ones that the table was made from.
#[cfg(feature = "polars")]
async fn elsewhere(engine: &Engine, models: &Project, model: &Model) -> Result<Rows> {
    for name in models.inputs(model) {
        let newest = engine.lake().table(&name).await?;
        let table = engine.lake().table(&model.table).await?;
        let read = table.txn(&format!("{}/{name}", model.name)).await?;
        if read != i64::try_from(newest.version()).ok() {
            return Err(Failure::new("M0021", "cannot compare with Polars: an input has moved on")
                .why(format!("`{name}` is at version {}, and Polars reads the newest", newest.version()))
                .fix(format!("build `{}` first", model.name)));
        }
    }
    Ok(tidemill_etl::engine::polars::query(engine.lake(), &model.sql).await?)
}

#[cfg(not(feature = "polars"))]
#[expect(clippy::unused_async, reason = "the same call with the feature")]
async fn elsewhere(_: &Engine, _: &Project, _: &Model) -> Result<Rows> {
    Err(Failure::new("Q0008", "this build has no Polars").fix("build it with `--features polars`").exit(Exit::Usage))
}
