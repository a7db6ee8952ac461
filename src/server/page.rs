//! The status page: plain HTML, no scripts. `maud` escapes every text.
use maud::{DOCTYPE, Markup, html};

use super::Status;
use crate::failure::Failure;
use crate::settings::ByteSize;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color-scheme:light dark}\
table{border-collapse:collapse;width:100%;margin-bottom:2rem}th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #8884}\
.n{text-align:right;font-variant-numeric:tabular-nums}.failed{color:#c33}.succeeded{color:#2a7}code{font-size:90%}";

fn layout(name: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (name) " · Tidemill" }
                style { (maud::PreEscaped(STYLE)) }
            }
            body { h1 { (name) } (body) }
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
                        tr { td { (dag.id) } td { (dag.triggers.join(", ")) } td { (dag.description) } }
                    } }
                }
            }
            h2 { "Latest runs" }
            @if status.runs.is_empty() { p { "None yet: " code { "tidemill dags run ID" } " makes one." } } @else {
                table {
                    thead { tr { th { "Run" } th { "DAG" } th { "State" } th { "Started" } th.n { "Seconds" } } }
                    tbody { @for run in &status.runs {
                        tr {
                            td { code { (run.id) } } td { (run.dag) } td class=(run.state) { (run.state) }
                            td { (run.started_at.as_deref().unwrap_or("–")) }
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
                            td.n { (table.rows.map_or_else(|| "–".to_owned(), |rows| rows.to_string())) }
                            td.n { (table.bytes.map_or_else(|| "–".to_owned(), |bytes| ByteSize(bytes).to_string())) }
                            td { (table.updated_at.as_deref().unwrap_or("–")) }
                        }
                    } }
                }
            }
            p { a href="/metrics" { "metrics" } " · " a href="/api/status" { "the same as JSON" } " · " a href="/healthz" { "health" } }
        },
    )
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
