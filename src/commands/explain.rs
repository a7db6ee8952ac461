//! `tidemill explain CODE`: the page about an error code.
use serde::Serialize;

use super::Context;
use crate::embedded::ERRORS;
use crate::failure::{Exit, Failure, Result};

#[derive(Serialize)]
struct Page {
    code: &'static str,
    about: &'static str,
}

pub(super) fn run(context: &Context, code: Option<&str>) -> Result<Exit> {
    let Some(code) = code else {
        let about = |page: &'static str| {
            page.lines().next().and_then(|title| title.split_once(": ")).map_or("", |(_, about)| about)
        };
        let pages: Vec<Page> = ERRORS.iter().map(|(code, page)| Page { code, about: about(page) }).collect();
        context.report.rows(&pages)?;
        return Ok(Exit::Done);
    };
    let wanted = code.trim_start_matches("error[").trim_end_matches(']').to_uppercase();
    match ERRORS.iter().find(|(code, _)| *code == wanted) {
        Some((code, page)) if context.report.json() => {
            context.report.one(&serde_json::json!({ "code": code, "page": page }))?;
        }
        Some((_, page)) => context.report.text(page)?,
        None => {
            let unknown = Failure::unknown("error code", &wanted, ERRORS.iter().map(|(code, _)| *code));
            return Err(unknown.fix("`tidemill explain` lists all codes"));
        }
    }
    Ok(Exit::Done)
}
