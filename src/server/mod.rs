//! What `tidemill up` serves: a status page, `/healthz`, `/metrics`, all to be read only; and the schema registry.
//!
//! `/healthz` answers anybody. Everything else is for callers on this machine, or for callers with the token.
mod auth;
mod page;
mod registry;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use serde_json::json;
use tidemill_etl::schema_registry::EmbeddedRegistry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, Result};
use crate::metrics::{Kind, Metric, Metrics};
use crate::settings::{Secret, open_server};

/// 64 KiB: the largest request is a page's address; nothing is uploaded here but schemas, which have their own limit.
const MAX_BODY: usize = 64 << 10;

/// How many runs the page shows.
const RUNS: usize = 20;

const UPTIME: Metric =
    Metric { name: "tidemill_uptime_seconds", help: "Time since the server started", kind: Kind::Gauge };

/// By its usual name, so that dashboards made for other programs show it too.
const MEMORY: Metric =
    Metric { name: "process_resident_memory_bytes", help: "Memory the process holds", kind: Kind::Gauge };

/// A DAG as the page shows it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct DagStatus {
    /// Its name.
    pub(crate) id: String,
    /// One line about it.
    pub(crate) description: String,
    /// What starts it, in words.
    pub(crate) triggers: Vec<String>,
}

/// A run as the page shows it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RunStatus {
    /// Its id.
    pub(crate) id: String,
    /// The DAG.
    pub(crate) dag: String,
    /// `running`, `succeeded`, `failed`, …
    pub(crate) state: String,
    /// When it started, RFC 3339.
    pub(crate) started_at: Option<String>,
    /// How long it took, or takes.
    pub(crate) seconds: Option<f64>,
}

/// A table as the page shows it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TableStatus {
    /// `schema.table`
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: i64,
    /// How many rows it has.
    pub(crate) rows: Option<u64>,
    /// How large its files are.
    pub(crate) bytes: Option<u64>,
    /// When it last changed, RFC 3339.
    pub(crate) updated_at: Option<String>,
}

/// What the page is made of.
#[async_trait]
pub(crate) trait StatusView: Send + Sync + 'static {
    /// The DAGs by name.
    async fn dags(&self) -> Result<Vec<DagStatus>>;
    /// The latest runs, newest first.
    async fn runs(&self, limit: usize) -> Result<Vec<RunStatus>>;
    /// The tables by name.
    async fn tables(&self) -> Result<Vec<TableStatus>>;
}

/// How to serve.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The project's name.
    pub(crate) name: String,
    /// The address; port 0 takes a free one.
    pub(crate) listen: SocketAddr,
    /// What callers present; needed on any address but loopback.
    pub(crate) token: Secret,
    /// How long requests under way may take after a stop.
    pub(crate) grace: Duration,
    /// The schemas to serve, if the project keeps its own.
    pub(crate) schemas: Option<Arc<EmbeddedRegistry>>,
}

/// A server that has its address but does not answer yet.
pub(crate) struct Server {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
    grace: Duration,
}

struct Shared {
    name: String,
    view: Arc<dyn StatusView>,
    metrics: Arc<Metrics>,
    started: Instant,
}

impl Server {
    /// Takes the address.
    ///
    /// # Errors
    /// S0010 without a token beyond loopback; S0013 if the address cannot be taken.
    pub(crate) async fn bind(options: Options, view: Arc<dyn StatusView>, metrics: Arc<Metrics>) -> Result<Self> {
        if !options.listen.ip().is_loopback() && options.token.is_empty() {
            return Err(open_server(options.listen));
        }
        let taken = |error: std::io::Error| {
            Failure::new("S0013", format!("cannot listen on `{}`", options.listen))
                .why(error.to_string())
                .fix("stop what listens there, or choose another address with `--listen` or `server.listen`")
        };
        let listener = TcpListener::bind(options.listen).await.map_err(taken)?;
        let address = listener.local_addr().map_err(taken)?;
        let shared = Arc::new(Shared { name: options.name, view, metrics, started: Instant::now() });
        Ok(Self { listener, address, router: router(shared, options.token, options.schemas), grace: options.grace })
    }

    /// The address it has.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`, then lets requests under way finish, for the grace period at most.
    ///
    /// # Errors
    /// X0002 if the listener breaks.
    pub(crate) async fn serve(self, stop: CancellationToken) -> Result<()> {
        let answering = axum::serve(self.listener, self.router).with_graceful_shutdown(stop.clone().cancelled_owned());
        let late = async {
            stop.cancelled().await;
            tokio::time::sleep(self.grace).await;
        };
        tokio::select! {
            ended = answering.into_future() => ended.map_err(|error| Failure::new("X0002", "the server stopped").why(error.to_string())),
            () = late => Ok(()),
        }
    }
}

fn router(shared: Arc<Shared>, token: Secret, schemas: Option<Arc<EmbeddedRegistry>>) -> Router {
    let guard = Arc::new(auth::Guard::new(token));
    Router::new()
        .route("/", get(status_page))
        .route("/metrics", get(metrics))
        .route("/api/status", get(status_json))
        .nest(registry::PATH, registry::router(schemas))
        .layer(middleware::from_fn_with_state(guard, auth::check))
        .route("/healthz", get(health))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::map_response(harden))
        .with_state(shared)
}

/// Headers that keep a browser from running or framing anything that got into a page.
async fn harden(mut response: Response) -> Response {
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn health(State(shared): State<Arc<Shared>>) -> Json<serde_json::Value> {
    Json(json!({
        "status": "ok",
        "version": env!("CARGO_PKG_VERSION"),
        "project": shared.name,
        "uptime_seconds": shared.started.elapsed().as_secs(),
    }))
}

async fn metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    shared.metrics.set(UPTIME, &[], shared.started.elapsed().as_secs_f64());
    if let Some(bytes) = resident_memory() {
        shared.metrics.set(MEMORY, &[], bytes);
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shared.metrics.render())
}

/// What Linux says of this process; elsewhere nothing.
fn resident_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}

/// What the page and its JSON show.
#[derive(Debug, Serialize)]
struct Status {
    dags: Vec<DagStatus>,
    runs: Vec<RunStatus>,
    tables: Vec<TableStatus>,
}

async fn status(shared: &Shared) -> Result<Status> {
    let (dags, runs, tables) = tokio::try_join!(shared.view.dags(), shared.view.runs(RUNS), shared.view.tables())?;
    Ok(Status { dags, runs, tables })
}

async fn status_page(State(shared): State<Arc<Shared>>) -> Response {
    match status(&shared).await {
        Ok(status) => page::status(&shared.name, &status).into_response(),
        Err(failure) => (StatusCode::SERVICE_UNAVAILABLE, page::failure(&shared.name, &failure)).into_response(),
    }
}

async fn status_json(State(shared): State<Arc<Shared>>) -> Response {
    match status(&shared).await {
        Ok(status) => Json(status).into_response(),
        Err(failure) => {
            let parts = failure.parts();
            let body = json!({ "code": parts.code, "what": parts.what, "why": parts.why, "fix": parts.fix });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

#[cfg(test)]
mod tests;
