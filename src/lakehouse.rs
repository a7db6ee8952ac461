//! A project's parts, opened when first needed: the lake, the engine, topics, schemas, the warehouse.
use std::path::PathBuf;
use std::sync::Arc;

use tidemill_etl::engine::{Engine, EngineSettings};
use tidemill_etl::model;
use tidemill_etl::pipeline::{self, DeadLetters};
use tidemill_etl::schema_registry::{ConfluentRegistry, EmbeddedRegistry, Registry};
use tidemill_etl::sink::{self, Connection, Sink};
use tidemill_etl::table::{Keeper, Lake, S3Settings, TableName};
use tidemill_etl::topic::{Broker, EmbeddedTopics};
use tidemill_orchestrator::{Clock, WallClock};
use tokio::sync::OnceCell;

use crate::failure::{Failure, Result};
use crate::project::Project;
use crate::settings::{self, Database};

/// Where dead letters of every stream and task go.
const DEAD_LETTERS: (&str, &str) = ("bronze", "dead_letters");

/// The parts of one project.
pub(crate) struct Lakehouse {
    pub(crate) project: Project,
    pub(crate) clock: Arc<dyn Clock>,
    lake: OnceCell<Lake>,
    engine: OnceCell<Engine>,
    broker: OnceCell<Arc<dyn Broker>>,
    embedded_registry: OnceCell<Arc<EmbeddedRegistry>>,
    registry: OnceCell<Arc<dyn Registry>>,
    dead: OnceCell<DeadLetters>,
    keeper: OnceCell<Arc<Keeper>>,
}

impl Lakehouse {
    /// The parts of `project`; nothing is opened yet.
    pub(crate) fn new(project: Project) -> Arc<Self> {
        Arc::new(Self {
            project,
            clock: Arc::new(WallClock),
            lake: OnceCell::new(),
            engine: OnceCell::new(),
            broker: OnceCell::new(),
            embedded_registry: OnceCell::new(),
            registry: OnceCell::new(),
            dead: OnceCell::new(),
            keeper: OnceCell::new(),
        })
    }

    /// The clock in the form that etl takes.
    pub(crate) fn etl_clock(&self) -> pipeline::Clock {
        let clock = Arc::clone(&self.clock);
        Arc::new(move || clock.now())
    }

    /// How S3 is reached.
    pub(crate) fn s3(&self) -> S3Settings {
        let s3 = &self.project.settings.lake.s3;
        let given = |secret: &settings::Secret| Some(secret.expose().to_owned()).filter(|text| !text.is_empty());
        S3Settings {
            endpoint: s3.endpoint.clone(),
            region: Some(s3.region.clone()),
            access_key_id: given(&s3.access_key_id),
            secret_access_key: given(&s3.secret_access_key),
            session_token: given(&s3.session_token),
            allow_http: s3.allow_http,
            path_style: s3.path_style,
        }
    }

    /// The lake. One that is not a local folder is asked once whether it keeps its promises.
    pub(crate) async fn lake(&self) -> Result<&Lake> {
        self.lake
            .get_or_try_init(async || {
                let url = &self.project.settings.lake.url;
                let lake = Lake::open(url.as_str(), &self.project.root, &self.s3())?;
                if url.scheme() != "file" {
                    lake.probe().await?;
                }
                Ok(lake)
            })
            .await
    }

    /// Background maintenance of the lake's tables, for whoever commits to one.
    pub(crate) async fn keeper(&self) -> Result<&Arc<Keeper>> {
        self.keeper
            .get_or_try_init(async || {
                let policies = self.project.settings.maintenance.policies.clone();
                Ok(Arc::new(Keeper::new(self.lake().await?.clone(), policies, self.etl_clock())))
            })
            .await
    }

    /// The query engine, without the project's views.
    pub(crate) async fn engine(&self) -> Result<&Engine> {
        self.engine
            .get_or_try_init(async || {
                let engine = &self.project.settings.engine;
                let settings = EngineSettings {
                    memory_limit: usize::try_from(engine.memory_limit.0).unwrap_or(usize::MAX),
                    spill_dir: engine.spill_dir.clone(),
                    target_partitions: engine.target_partitions.unwrap_or(0),
                    base: self.project.root.clone(),
                };
                Ok(Engine::new(self.lake().await?.clone(), settings)?)
            })
            .await
    }

    /// Where the project's models are: as `dbt_project.yml` says if there is one, else below `paths.sql`.
    pub(crate) fn layout(&self) -> Result<model::Layout> {
        let (root, settings) = (&self.project.root, &self.project.settings);
        if root.join(model::DBT_PROJECT).is_file() {
            return Ok(model::Layout::dbt(root, &settings.vars)?);
        }
        let mut layout = model::Layout::tidemill(&settings.paths.sql, &settings.vars);
        layout.root.clone_from(root);
        Ok(layout)
    }

    /// The project's models, rendered anew: files change while `up` runs.
    pub(crate) fn models(&self) -> Result<model::Project> {
        Ok(model::Project::read(&self.layout()?, self.project.environment.variables())?)
    }

    /// The project's models as far as they can be read, and all that is wrong with them.
    pub(crate) fn survey(&self) -> Result<(model::Project, Vec<model::ModelProblem>)> {
        Ok(model::Project::survey(&self.layout()?, self.project.environment.variables()))
    }

    /// Loads the seeds and builds the models that were chosen, `jobs` at a time or one a core, tells the keeper, and then
    /// runs the chosen checks that none of it has waited for.
    /// Readers see them as `showing` says; what the run itself reads of the tables it builds is always the newest.
    pub(crate) async fn bring_up_to_date<'p>(
        &self,
        models: &Arc<model::Project>,
        chosen: &model::Selection<'p>,
        jobs: Option<usize>,
        showing: model::Showing<'_>,
        stop: &(dyn Fn() -> bool + Sync),
        told: impl FnMut(&model::Ran, Vec<model::CheckOutcome>) + Send,
    ) -> Result<(Vec<model::Ran>, Vec<model::Checked<'p>>)> {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let clock = Arc::clone(&self.clock);
        let now = move || clock.now();
        let lake = self.lake().await?;
        let shown = lake.publication().await?.without(model::stored(chosen));
        let engine = &self.engine().await?.with_views(models.views()).with_publication(shown);
        let mut stamps = model::Stamps::read(&self.project.state("models.json")?);
        let mut runner = model::Runner {
            engine,
            project: Arc::clone(models),
            workers: jobs.unwrap_or_else(cores),
            stamps: &mut stamps,
            now: &now,
            stop,
        };
        let ran = runner.run(chosen, told).await;
        let checked = runner.check(chosen, &ran).await;
        // It only saves time: that it could not be written is no failure.
        if let Err(error) = stamps.write() {
            tracing::warn!(%error, "what was built could not be remembered");
        }
        if let Some(made) = model::show(lake, chosen, &ran, showing, self.clock.now()).await? {
            tracing::info!(publication = made.number, tables = made.tables.len(), "published together");
        }
        Ok((ran, checked))
    }

    /// The engine with the project's views, and its models.
    pub(crate) async fn engine_with_models(&self) -> Result<(Engine, model::Project)> {
        let models = self.models()?;
        let engine = self.engine().await?.with_views(models.views());
        Ok((engine, models))
    }

    /// The broker.
    pub(crate) async fn broker(&self) -> Result<&Arc<dyn Broker>> {
        self.broker
            .get_or_try_init(async || {
                let broker: Arc<dyn Broker> = match &self.project.settings.topics.broker {
                    settings::Broker::Embedded => {
                        let path = self.project.state("topics.db")?;
                        let clock = Arc::clone(&self.clock);
                        let now = Arc::new(move || clock.now().timestamp_millis());
                        Arc::new(EmbeddedTopics::open(&path, now)?)
                    }
                    settings::Broker::Kafka(brokers) => self.kafka(brokers)?,
                };
                Ok(broker)
            })
            .await
    }

    #[cfg(feature = "kafka")]
    fn kafka(&self, brokers: &str) -> Result<Arc<dyn Broker>> {
        use tidemill_etl::topic::kafka::{KafkaBroker, KafkaSettings};

        let mut kafka = KafkaSettings::new(brokers);
        for (key, value) in &self.project.settings.topics.kafka {
            kafka = kafka.with(key, value.expose());
        }
        Ok(Arc::new(KafkaBroker::open(kafka)?))
    }

    #[cfg(not(feature = "kafka"))]
    fn kafka(&self, _: &str) -> Result<Arc<dyn Broker>> {
        Err(Failure::new("B0100", "this build has no Kafka")
            .fix("build it with `--features kafka`, or use embedded topics"))
    }

    /// The registry in the lake, unless the project uses another. What is in `schemas/` may not be in it yet.
    pub(crate) async fn embedded_registry(&self) -> Result<Option<Arc<EmbeddedRegistry>>> {
        if self.project.settings.schemas.registry.is_some() {
            return Ok(None);
        }
        let open = async || {
            let lake = self.lake().await?;
            Ok::<_, Failure>(Arc::new(EmbeddedRegistry::open(Arc::clone(lake.store()) as _, lake.path("_schemas"))))
        };
        self.embedded_registry.get_or_try_init(open).await.map(|registry| Some(Arc::clone(registry)))
    }

    async fn open_registry(&self) -> Result<Arc<dyn Registry>> {
        let schemas = &self.project.settings.schemas;
        match (self.embedded_registry().await?, &schemas.registry) {
            (Some(embedded), _) => Ok(embedded),
            (None, None) => Err(Failure::bug("a project has either a registry of its own or another's address")),
            (None, Some(address)) => {
                let login = (!schemas.user.is_empty())
                    .then(|| (schemas.user.clone(), tidemill_etl::secret::Secret::new(schemas.password.expose())));
                Ok(Arc::new(ConfluentRegistry::open(address.expose().as_str(), login)?))
            }
        }
    }

    /// The registry, with every file of `schemas/` in it.
    pub(crate) async fn registry(&self) -> Result<&Arc<dyn Registry>> {
        self.registry
            .get_or_try_init(async || {
                let registry = self.open_registry().await?;
                self.register_files(registry.as_ref()).await?;
                Ok(registry)
            })
            .await
    }

    /// `schemas/NAME.avsc` is the subject of the topic NAME. A file that is registered already is left alone.
    async fn register_files(&self, registry: &dyn Registry) -> Result<()> {
        let folder = &self.project.settings.paths.schemas;
        let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.retain(|file| file.extension().is_some_and(|ending| ending == "avsc"));
        files.sort();
        for file in files {
            let topic = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            let text = std::fs::read_to_string(&file).map_err(|error| Failure::io(&error, "read", &file))?;
            let subject = self.project.settings.schemas.subject(&topic);
            registry
                .register(&subject, &text, None)
                .await
                .map_err(|error| Failure::from(error).place(self.project.shown(&file).to_string()))?;
        }
        Ok(())
    }

    /// The dead-letter table.
    pub(crate) async fn dead_letters(&self) -> Result<&DeadLetters> {
        self.dead
            .get_or_try_init(async || {
                let (schema, table) = DEAD_LETTERS;
                Ok(DeadLetters::new(self.lake().await?.clone(), TableName::new(schema, table)))
            })
            .await
    }

    /// The warehouse, opened anew: a connection belongs to one load at a time.
    pub(crate) async fn warehouse(&self) -> Result<Box<dyn Sink>> {
        let warehouse = &self.project.settings.warehouse;
        let mut connection = match &warehouse.place {
            Database::Sqlite(path) => Connection::new("sqlite", path.to_string_lossy()),
            Database::Postgres(address) => {
                let mut connection = Connection::new("postgres", address.expose().as_str());
                connection.schema.clone_from(&warehouse.schema);
                connection
            }
        };
        let password = warehouse.password.expose();
        if !password.is_empty() {
            connection.password = Some(tidemill_etl::secret::Secret::new(password));
        }
        Ok(sink::open(connection).await?)
    }

    /// The subject of a topic's values.
    pub(crate) fn subject(&self, topic: &str) -> String {
        self.project.settings.schemas.subject(topic)
    }
}
