//! The `tidemill` binary: reads the command line, wires the parts, reports how it went.
mod call;
mod cli;
mod commands;
mod embedded;
mod failure;
mod lakehouse;
mod metrics;
mod project;
mod report;
mod runner;
mod server;
mod settings;
mod status;
mod stop;
mod streams;
mod suggest;
mod tasks;
mod triggers;

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Parser as _;
use tokio_util::sync::CancellationToken;

use commands::Context;
use failure::{Exit, Failure, Result};
use report::Report;

/// What threads have for calls: deep SQL plans recurse, and only what is used is ever taken.
const STACK: usize = 64 << 20;

fn main() -> ExitCode {
    let work = || match cli::Cli::try_parse() {
        Ok(cli) => start(cli),
        Err(error) => report::usage(&error),
    };
    // The first thread's stack is not ours to choose.
    let exit = match std::thread::Builder::new().name("main".to_owned()).stack_size(STACK).spawn(work) {
        Ok(thread) => thread.join().unwrap_or(Exit::Bug),
        Err(_) => work(),
    };
    ExitCode::from(exit.code())
}

fn start(cli: cli::Cli) -> Exit {
    let environment = settings::Environment::read();
    let report = Report::new(&cli.global, &environment);
    report.log(cli.global.verbose);
    if let Some(text) = environment.failpoint()
        && let Err(error) = tidemill_etl::failpoint::arm(text)
    {
        return report.failure(&Failure::from(tidemill_etl::Error::from(error)).exit(Exit::Usage));
    }
    let panics = watch_panics();
    let context = Context { report: report.clone(), global: cli.global, environment, stop: CancellationToken::new() };
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| run(&context, cli.command)));
    match outcome {
        Ok(Ok(exit)) => exit,
        Ok(Err(failure)) => report.failure(&failure),
        Err(_) => {
            let (what, place) = panics.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
            report.failure(&Failure::bug(format!("a bug: {what}")).place(place))
        }
    }
}

fn run(context: &Context, command: cli::Command) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(STACK)
        .build()
        .map_err(|error| Failure::new("X0002", "cannot start threads").why(error.to_string()))?;
    let stop = context.stop.clone();
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = Box::pin(commands::run(context, command)) => outcome,
            () = stop::twice(stop) => Ok(Exit::Stopped),
        }
    });
    // Blocking work, such as a read from a pipe nobody writes to, must not hold the process.
    runtime.shutdown_timeout(Duration::from_millis(200));
    outcome
}

/// What the last panic said, and where.
type LastPanic = Arc<Mutex<Option<(String, String)>>>;

/// Keeps what a panic says for the report, instead of printing it at once.
fn watch_panics() -> LastPanic {
    let last = LastPanic::default();
    let seen = Arc::clone(&last);
    panic::set_hook(Box::new(move |info| {
        let what = info.payload_as_str().unwrap_or("it panicked without a word").to_owned();
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(what, place, "panicked");
        *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some((what, place));
    }));
    last
}
