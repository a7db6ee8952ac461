//! The only code that prints. Results go to standard output; failures, progress and logs to standard error.
//!
//! A failure has four lines: what, where, why, fix. One with a place in a file shows the line and points at it.
use std::fmt;
use std::io::{self, IsTerminal as _, Write};
use std::time::{Duration, Instant};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::cli::Global;
use crate::failure::{Exit, Failure, Parts, Result};
use crate::settings::{ByteSize, Environment};
use crate::tasks::count;

/// Where everything a person reads goes through. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    json: bool,
    quiet: bool,
    colour: bool,
    /// How wide a table may be; `None` where standard output is no terminal.
    width: Option<usize>,
    /// Hidden where standard error is no terminal, or log lines would come between.
    bars: MultiProgress,
}

impl Report {
    /// Decides once how to print.
    pub(crate) fn new(global: &Global, environment: &Environment) -> Self {
        let terminal = io::stderr().is_terminal();
        let live = terminal && !global.quiet && !global.json && global.verbose == 0;
        let target = if live { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self {
            json: global.json,
            quiet: global.quiet,
            // https://no-color.org
            colour: terminal && !environment.has("NO_COLOR"),
            width: console::Term::stdout().size_checked().map(|(_, columns)| usize::from(columns)),
            bars: MultiProgress::with_draw_target(target),
        }
    }

    /// Whether results are to be JSON.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Prints rows: a table for people, an array of objects with `--json`.
    ///
    /// # Errors
    /// If standard output cannot be written.
    pub(crate) fn rows<T: Serialize>(&self, rows: &[T]) -> Result<()> {
        let rows = rows.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>();
        let rows = rows.map_err(|error| Failure::bug(format!("rows are no JSON: {error}")))?;
        if self.json { self.line(&Value::Array(rows).to_string()) } else { self.text(&table(&rows, self.width)) }
    }

    /// Prints one thing: its fields one below the other for people, an object with `--json`.
    ///
    /// # Errors
    /// If standard output cannot be written.
    pub(crate) fn one<T: Serialize>(&self, thing: &T) -> Result<()> {
        let value = serde_json::to_value(thing).map_err(|error| Failure::bug(format!("not JSON: {error}")))?;
        match &value {
            Value::Object(fields) if !self.json => {
                let width = fields.keys().map(|name| name.width()).max().unwrap_or(0);
                let lines = fields.iter().map(|(name, value)| format!("{name:width$}  {}\n", cell(name, value)));
                self.text(&lines.collect::<String>())
            }
            _ => self.line(&value.to_string()),
        }
    }

    /// Prints one line of a result.
    ///
    /// # Errors
    /// If standard output cannot be written.
    pub(crate) fn line(&self, line: &str) -> Result<()> {
        self.text(&format!("{line}\n"))
    }

    /// Prints a text of a result as it is.
    ///
    /// # Errors
    /// If standard output cannot be written.
    pub(crate) fn text(&self, text: &str) -> Result<()> {
        self.output(|out| out.write_all(text.as_bytes()))
    }

    /// Hands out standard output, locked and with no bar in the way, for results that are written piece by piece.
    ///
    /// # Errors
    /// If standard output cannot be written.
    pub(crate) fn output(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        self.bars.suspend(|| {
            let mut out = io::stdout().lock();
            write(&mut out).and_then(|()| out.flush()).map_err(|error| Failure::output(&error))
        })
    }

    /// Says something to the person at the terminal, unless `--quiet`.
    pub(crate) fn note(&self, text: impl fmt::Display) {
        if !self.quiet {
            self.aside(&format!("{text}\n"));
        }
    }

    /// Starts a piece of work whose size is known or becomes known: a bar with rate and ETA.
    pub(crate) fn bar(&self, what: impl Into<String>, total: Option<u64>, unit: Unit) -> Progress {
        self.progress(what.into(), total, unit)
    }

    fn progress(&self, what: String, total: Option<u64>, unit: Unit) -> Progress {
        let bar = (!self.bars.is_hidden()).then(|| {
            let bar = self.bars.add(total.map_or_else(ProgressBar::no_length, ProgressBar::new));
            bar.set_style(style(total, unit));
            bar.set_message(clean(&what));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        if bar.is_none() {
            self.note(format_args!("{} …", clean(&what)));
        }
        Progress { report: self.clone(), bar, what, unit, started: Instant::now() }
    }

    /// Renders a failure, all of it, and returns how the process ends.
    pub(crate) fn failure(&self, failure: &Failure) -> Exit {
        let parts = failure.parts();
        if !parts.silent {
            self.aside(&if self.json { failure_json(failure) } else { render(failure, self.colour) });
        }
        parts.exit
    }

    /// Writes to standard error. If even that fails there is nobody left to tell.
    fn aside(&self, text: &str) {
        self.bars.suspend(|| drop(io::stderr().lock().write_all(text.as_bytes())));
    }

    /// Sends log lines to standard error: `-v` what happens, `-vv` why, `-vvv` what the libraries do.
    pub(crate) fn log(&self, verbose: u8) {
        let filter = match verbose {
            0 => return,
            1 => "warn,tidemill=info,tidemill_etl=info,tidemill_orchestrator=info",
            2 => "warn,tidemill=debug,tidemill_etl=debug,tidemill_orchestrator=debug",
            _ => "debug,hyper=info,h2=info",
        };
        let set = tracing_subscriber::fmt()
            .compact()
            .with_ansi(self.colour)
            .with_target(verbose > 1)
            .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
            .with_writer(io::stderr)
            .try_init();
        debug_assert!(set.is_ok(), "logs are set up once");
    }
}

/// What a bar counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Bytes, shown as kB, MB, GB.
    Bytes,
    /// Anything else: rows, records, items.
    Things,
}

/// Work under way. [`Progress::done`] ends it well; dropped, it takes its line away.
#[derive(Debug)]
pub(crate) struct Progress {
    report: Report,
    bar: Option<ProgressBar>,
    what: String,
    unit: Unit,
    started: Instant,
}

impl Progress {
    /// Sets what is counted, once it is known.
    pub(crate) fn unit(&mut self, unit: Unit) {
        self.unit = unit;
    }

    /// Sets how much there is in all, once it is known.
    pub(crate) fn set_total(&self, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_style(style(Some(total), self.unit));
            bar.set_length(total);
        }
    }

    /// Sets how much is done.
    pub(crate) fn set(&self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }

    /// Adds to what is done.
    pub(crate) fn advance(&self, by: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(by);
        }
    }

    /// Changes the words of the line.
    pub(crate) fn say(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(clean(what));
        }
    }

    /// Ends the work with a line that stays: what it was, `result`, and the time it took.
    pub(crate) fn done(self, result: impl fmt::Display) {
        let took = seconds(self.started.elapsed());
        let (what, result) = (clean(&self.what), clean(&result.to_string()));
        self.report.note(format_args!("{what}: {result} ({took})"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(total: Option<u64>, unit: Unit) -> ProgressStyle {
    let template = match (total, unit) {
        (None, Unit::Things) => "{spinner} {msg} {elapsed}",
        (None, Unit::Bytes) => "{spinner} {msg} {decimal_bytes} {decimal_bytes_per_sec} {elapsed}",
        (Some(_), Unit::Things) => "{msg} {bar:24} {human_pos}/{human_len} {rate} ETA {eta}",
        (Some(_), Unit::Bytes) => {
            "{msg} {bar:24} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} ETA {eta}"
        }
    };
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
        .with_key("rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
            // A line that cannot be drawn is drawn again.
            out.write_str(&rate(state.per_sec())).unwrap_or_default();
        })
        .progress_chars("━━─")
}

/// A rate as a person says it: `5.6/s`, `20,175/s`.
fn rate(per_second: f64) -> String {
    match per_second {
        0.0..10.0 => format!("{per_second:.1}/s"),
        10.0.. => format!("{}/s", count(format!("{per_second:.0}").parse().unwrap_or(0))),
        _ => String::new(),
    }
}

/// A length of time as a person says it: `0.4 s`, `12 s`, `3 min 20 s`.
pub(crate) fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        whole @ 10..120 => format!("{whole} s"),
        whole => format!("{} min {} s", whole / 60, whole % 60),
    }
}

/// Prints what the command line parser has to say: help, the version, or a wrong use.
pub(crate) fn usage(error: &clap::Error) -> Exit {
    // A reader that has gone is no failure here either.
    drop(error.print());
    if error.use_stderr() { Exit::Usage } else { Exit::Done }
}

/// Renders a failure as text.
pub(crate) fn render(failure: &Failure, colour: bool) -> String {
    let mut text = String::new();
    for (index, parts) in failure.each().enumerate() {
        if index > 0 {
            text.push('\n');
        }
        if parts.excerpt.is_some() { pointed(&mut text, parts, colour) } else { plain(&mut text, parts, colour) }
    }
    let errors = failure.each().filter(|parts| !parts.warning).count();
    if errors > 1 {
        text.extend(["\n", &errors.to_string(), " problems\n"]);
    }
    text
}

/// The four lines.
fn plain(text: &mut String, parts: &Parts, colour: bool) {
    let (level, paint) = if parts.warning { ("warning", "\x1b[1;33m") } else { ("error", "\x1b[1;31m") };
    let (paint, bold, reset) = if colour { (paint, "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
    text.extend([paint, level, "[", parts.code, "]", reset, bold, ": ", &clean(&parts.what), reset, "\n"]);
    for (name, line) in [("where:", &parts.place), ("why:  ", &parts.why), ("fix:  ", &parts.fix)] {
        if let Some(line) = line {
            text.extend(["  ", bold, name, reset, " ", &lines(line), "\n"]);
        }
    }
}

/// The line of the file with a caret, then the rest.
fn pointed(text: &mut String, parts: &Parts, colour: bool) {
    let Some(excerpt) = &parts.excerpt else { return };
    let marks = excerpt.marks.iter().enumerate().map(|(index, mark)| {
        let kind = if index == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
        let label = (!mark.label.is_empty()).then(|| clean(&mark.label));
        kind.span(within(&excerpt.text, &mark.span)).label(label)
    });
    let level = if parts.warning { Level::WARNING } else { Level::ERROR };
    let snippet = Snippet::source(&*excerpt.text).path(&excerpt.file).annotations(marks);
    let rest = [("where", &parts.place), ("why", &parts.why), ("fix", &parts.fix)];
    let rest =
        rest.into_iter().filter_map(|(name, line)| Some(Level::HELP.with_name(name).message(lines(line.as_ref()?))));
    let group: Group<'_> = level.primary_title(&parts.what).id(parts.code).element(snippet).elements(rest);
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    text.push_str(&renderer.render(&[group]));
    text.push('\n');
}

/// A span that lies within the text and on its characters; a file may have changed since it was read.
fn within(text: &str, span: &std::ops::Range<usize>) -> std::ops::Range<usize> {
    let start = text.floor_char_boundary(span.start.min(text.len()));
    let end = text.ceil_char_boundary(span.end.clamp(start, text.len()));
    start..end
}

fn failure_json(failure: &Failure) -> String {
    let each = failure.each().map(|parts| {
        let excerpt = parts.excerpt.as_ref().and_then(|excerpt| {
            let span = within(&excerpt.text, &excerpt.marks.first()?.span);
            let before = excerpt.text.get(..span.start)?;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            Some(json!({ "file": excerpt.file, "line": before.matches('\n').count() + 1, "column": column }))
        });
        json!({
            "code": parts.code, "level": if parts.warning { "warning" } else { "error" }, "what": parts.what,
            "at": excerpt, "where": parts.place, "why": parts.why, "fix": parts.fix,
        })
    });
    format!("{}\n", json!({ "errors": each.collect::<Vec<_>>() }))
}

/// Rows of objects as columns: names above, numbers to the right. Where a terminal is not wide enough, texts of the last
/// column go on below, and those of others are cut.
fn table(rows: &[Value], most: Option<usize>) -> String {
    let Some(Value::Object(first)) = rows.first() else { return String::new() };
    let columns: Vec<&String> = first.keys().collect();
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| columns.iter().map(|name| cell(name, &row[name.as_str()])).collect()).collect();
    let right: Vec<bool> = columns
        .iter()
        .map(|name| rows.iter().all(|row| row[name.as_str()].is_number() || row[name.as_str()].is_null()))
        .collect();
    let mut widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(index, name)| cells.iter().map(|row| row[index].width()).max().unwrap_or(0).max(name.width()))
        .collect();
    if let Some(most) = most {
        narrow(&mut widths, &right, most);
    }
    let mut text = String::new();
    let last = columns.len() - 1;
    let mut line = |cells: &mut dyn Iterator<Item = &String>| {
        let mut out = String::new();
        let mut below = Vec::new();
        for (index, cell) in cells.enumerate() {
            let cell = if index == last && !right[index] {
                let mut parts = wrapped(cell, widths[index]).into_iter();
                let first = parts.next().unwrap_or_default();
                below = parts.collect();
                first
            } else {
                cut(cell, widths[index])
            };
            let pad = " ".repeat(widths[index].saturating_sub(cell.width()));
            out.push_str(if index > 0 { "  " } else { "" });
            out.extend(if right[index] { [pad.as_str(), &cell] } else { [cell.as_str(), &pad] });
        }
        text.push_str(out.trim_end());
        text.push('\n');
        let indent = widths.iter().take(last).sum::<usize>() + 2 * last;
        for part in below {
            text.extend([" ".repeat(indent).as_str(), &part, "\n"]);
        }
    };
    line(&mut columns.iter().copied());
    for row in &cells {
        line(&mut row.iter());
    }
    text
}

/// The narrowest that a column of texts is made: the last one, whose texts go on below, and any other.
const NARROW: [usize; 2] = [32, 12];

/// Takes from the last column, then from the widest columns of texts, until all fit or nothing is left to take. The first
/// column is not touched: it names the row.
fn narrow(widths: &mut [usize], numbers: &[bool], most: usize) {
    let gaps = 2 * widths.len().saturating_sub(1);
    let mut excess = (widths.iter().sum::<usize>() + gaps).saturating_sub(most);
    if let ([_, .., last], [.., false]) = (&mut *widths, numbers) {
        let taken = excess.min(last.saturating_sub(NARROW[0]));
        *last -= taken;
        excess -= taken;
    }
    for _ in 0..excess {
        let texts = widths.iter_mut().zip(numbers).skip(1).filter(|(width, number)| !**number && **width > NARROW[1]);
        let Some((widest, _)) = texts.max_by_key(|(width, _)| **width) else { return };
        *widest -= 1;
    }
}

/// A text as lines of at most `width` columns, broken between words; a longer word is cut.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    if text.width() <= width {
        return vec![text.to_owned()];
    }
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let fits = lines.last().is_none_or(|line| line.is_empty() || line.width() + 1 + word.width() <= width);
        if !fits {
            lines.push(String::new());
        }
        let Some(line) = lines.last_mut() else { continue };
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&cut(word, width));
    }
    lines
}

/// A text of at most `width` columns, with `…` for what is missing.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut taken = 1;
    for c in text.chars() {
        taken += c.width().unwrap_or(0);
        if taken > width {
            break;
        }
        out.push(c);
    }
    out.push('…');
    out
}

/// A value as people read it; what it is follows from the column's name, which `--json` shows with the plain value.
fn cell(name: &str, value: &Value) -> String {
    match (name, value.as_u64(), value.as_f64()) {
        ("bytes", Some(bytes), _) => return ByteSize(bytes).to_string(),
        ("rows" | "records", Some(number), _) => return count(number),
        ("seconds", _, Some(seconds)) => return format!("{seconds:.1}"),
        ("required" | "nullable", ..) => return if value == true { "yes" } else { "no" }.to_owned(),
        _ => {}
    }
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => clean(text),
        Value::Array(items) if items.iter().all(|item| !item.is_object() && !item.is_array()) => {
            items.iter().map(|item| cell("", item)).collect::<Vec<_>>().join(", ")
        }
        other => clean(&other.to_string()),
    }
}

/// A text of several lines, the further ones below the first.
fn lines(text: &str) -> String {
    text.trim_end().lines().map(clean).collect::<Vec<_>>().join("\n         ")
}

/// A text without control characters: what comes from data must not steer the terminal.
fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.trim_end().chars() {
        match c {
            '\n' => out.push_str(" ⏎ "),
            '\t' => out.push(' '),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Excerpt, Mark};

    #[test]
    fn the_four_lines() {
        let failure = Failure::new("L0203", "source `orders` cannot continue: offset 4181 was deleted")
            .place("dags/stream_orders.toml:14")
            .why("the earliest offset left is 9000")
            .fix("accept the loss with `on_gap = \"skip\"`");

        assert_eq!(
            render(&failure, false),
            "error[L0203]: source `orders` cannot continue: offset 4181 was deleted\n  where: dags/stream_orders.toml:14\n  why:   the earliest offset left is 9000\n  fix:   accept the loss with `on_gap = \"skip\"`\n"
        );
        assert!(render(&failure, true).contains("\x1b[1;31merror[L0203]\x1b[0m"));
    }

    #[test]
    fn a_place_in_a_file_is_pointed_at_even_if_the_span_is_off() {
        let mark = Mark { span: 7..900, label: "unknown key".to_owned() };
        let excerpt = Excerpt { file: "a.toml".to_owned(), text: "[lake]\nulr = 1\n".into(), marks: vec![mark] };
        let text =
            render(&Failure::new("S0004", "unknown key `lake.ulr`").excerpt(excerpt).fix("did you mean `url`?"), false);

        assert!(text.starts_with("error[S0004]: unknown key `lake.ulr`\n"), "{text}");
        assert!(text.contains("a.toml:2:1") && text.contains("= fix: did you mean `url`?"), "{text}");
    }

    #[test]
    fn tables_align_and_data_cannot_steer_the_terminal() {
        let rows = [json!({"name": "a\x1b[2J", "rows": 7}), json!({"name": "日本", "rows": null})];

        assert_eq!(table(&rows, None), "name        rows\na\\u{1b}[2J     7\n日本           –\n");
        assert_eq!(table(&[], None), "");
    }

    #[test]
    fn long_texts_are_made_to_fit_a_terminal() {
        let rows = [
            json!({"a name that is long": "x", "why": "a text too long for it", "about": "日本 and a text that is longer than it may be"}),
        ];

        let narrow = table(&rows, Some(52));

        let expected = [
            "a name that is long  why              about",
            "x                    a text too lon…  日本 and a",
            "                                      text that is",
            "                                      longer than it",
            "                                      may be",
        ];
        assert_eq!(narrow.lines().collect::<Vec<_>>(), expected);
        assert!(table(&rows, None).contains("too long for it"));
    }

    #[test]
    fn a_length_of_time_is_short() {
        assert_eq!(seconds(Duration::from_millis(449)), "0.4 s");
        assert_eq!(seconds(Duration::from_secs(42)), "42 s");
        assert_eq!(seconds(Duration::from_secs(200)), "3 min 20 s");
    }
}
