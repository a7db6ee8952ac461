//! The status page: plain HTML, no scripts. `maud` escapes every text.
use maud::{DOCTYPE, Markup, html};

use super::Status;
use crate::failure::Failure;
use crate::settings::ByteSize;
use crate::tasks::count;

const STYLE: &str = ":root{color-scheme:light dark}\
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1.5rem}\
h1{margin-bottom:0}h2{margin:2rem 0 .5rem;font-size:1.1rem}.about{opacity:.7;margin:0}\
table{border-collapse:collapse;width:100%}th{font-weight:600;opacity:.7}\
th,td{text-align:left;padding:.35rem 1.5rem .35rem 0;border-bottom:1px solid #8883;vertical-align:top}th:last-child,td:last-child{padding-right:0}\
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}.t{white-space:nowrap;font-variant-numeric:tabular-nums}\
.failed{color:#c33}.success{color:#197a4b}.running{color:#2563c9}@media(prefers-color-scheme:dark){.success{color:#4ac28a}.running{color:#7aa7f7}.failed{color:#f77}}\
code{font-size:90%}footer{margin:2rem 0;opacity:.8}a{color:inherit}";

/// How often a browser reads the page again, in seconds.
const AGAIN: u32 = 5;

fn layout(name: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="refresh" content=(AGAIN);
                title { (name) " · Tidemill" }
                style { (maud::PreEscaped(STYLE)) }
            }
            body { h1 { (name) } p.about { "Tidemill " (env!("CARGO_PKG_VERSION")) } (body) }
        }
    }
}

pub(super) fn status(name: &str, status: &Status) -> Markup {
    layout(
        name,
        &html! {
            h2 { "DAGs" }
            @if status.dags.is_empty() { p { "There are none yet: a DAG is a file in " code { "dags/" } "." } } @else {
                table {
                    thead { tr { th { "DAG" } th { "Starts" } th { "What it does" } } }
                    tbody { @for dag in &status.dags {
                        tr { td { (dag.id) } td { (code(&dag.triggers.join(", "))) } td { (dag.description) } }
                    } }
                }
            }
            h2 { "Latest runs" }
            @if status.runs.is_empty() { p { "None yet: " code { "tidemill dags run ID" } " makes one." } } @else {
                table {
                    thead { tr { th { "Run" } th { "State" } th { "Started" } th.n { "Seconds" } } }
                    tbody { @for run in &status.runs {
                        tr {
                            td { code { (run.id) } } td class=(run.state) { (run.state) }
                            td.t { (time(run.started_at.as_deref())) }
                            td.n { (run.seconds.map_or_else(|| "–".to_owned(), |seconds| format!("{seconds:.1}"))) }
                        }
                    } }
                }
            }
            h2 { "Tables" }
            @if status.tables.is_empty() { p { "None yet." } } @else {
                table {
                    thead { tr { th { "Table" } th.n { "Version" } th.n { "Rows" } th.n { "Size" } th { "Changed" } } }
                    tbody { @for table in &status.tables {
                        tr {
                            td { (table.name) } td.n { (table.version) }
                            td.n { (table.rows.map_or_else(|| "–".to_owned(), count)) }
                            td.n { (table.bytes.map_or_else(|| "–".to_owned(), |bytes| ByteSize(bytes).to_string())) }
                            td.t { (time(table.updated_at.as_deref())) }
                        }
                    } }
                }
            }
            footer { a href="/metrics" { "metrics" } " · " a href="/api/status" { "the same as JSON" } " · " a href="/healthz" { "health" } }
        },
    )
}

/// What is between backticks, as code.
fn code(text: &str) -> Markup {
    html! {
        @for (place, part) in text.split('`').enumerate() {
            @if place % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

/// `2026-11-20T23:49:11Z` as people read it.
fn time(at: Option<&str>) -> String {
    at.map_or_else(|| "–".to_owned(), |at| at.replace('T', " ").replace('Z', " UTC"))
}

pub(super) fn failure(name: &str, failure: &Failure) -> Markup {
    let parts = failure.parts();
    layout(
        name,
        &html! {
            p.failed { "error[" (parts.code) "]: " (parts.what) }
            @if let Some(why) = &parts.why { p { "why: " (why) } }
            @if let Some(fix) = &parts.fix { p { "fix: " (fix) } }
        },
    )
}
