//! `tidemill settings [PREFIX]`: every setting, its value, and where it comes from. Secrets are dots.
use super::Context;
use crate::failure::{Exit, Failure, Result};

pub(super) fn run(context: &Context, prefix: Option<&str>) -> Result<Exit> {
    let listing = context.project()?.settings.listing;
    let prefix = prefix.unwrap_or_default();
    let shown: Vec<_> = listing.iter().filter(|listed| listed.key.starts_with(prefix)).collect();
    if shown.is_empty() {
        return Err(Failure::unknown("setting", prefix, listing.iter().map(|listed| listed.key.as_str())));
    }
    context.report.rows(&shown)?;
    Ok(Exit::Done)
}
