//! A seed's tables and models, and what is compared after each cut.
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use datafusion::arrow::array::{Array as _, AsArray as _, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Float64Type};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tidemill_etl::engine::{Engine, EngineSettings};
use tidemill_etl::model::incremental::{explain, verify};
use tidemill_etl::model::{Built, Project, build};
use tidemill_etl::table::{Lake, S3Settings};

use super::Seed;
use super::inputs::{Input, NOW};
use super::selects::{Maker, Source};

pub(crate) struct World {
    seed: Seed,
    random: StdRng,
    folder: tempfile::TempDir,
    lake: Lake,
    engine: Engine,
    inputs: Vec<Input>,
    project: Project,
    /// Whether a second plan must give the same rows, by model.
    same: BTreeMap<String, bool>,
    classes: BTreeMap<String, u64>,
    happened: Vec<String>,
}

fn open(folder: &std::path::Path) -> (Lake, Engine) {
    let lake = Lake::open("lake", folder, &S3Settings::default()).unwrap();
    let settings = EngineSettings {
        memory_limit: 256 << 20,
        spill_dir: folder.join("spill"),
        target_partitions: 2,
        base: PathBuf::from(folder),
    };
    let engine = Engine::new(lake.clone(), settings).unwrap();
    (lake, engine)
}

/// A future that is dropped after so many looks at it.
struct Cut<F> {
    inner: Pin<Box<F>>,
    left: u32,
}

impl<F: Future> Future for Cut<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        self.inner.as_mut().poll(context).map(Some)
    }
}

impl World {
    pub(crate) async fn new(Seed { generation, seed }: Seed, models: usize) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let folder = tempfile::tempdir().unwrap();
        let (lake, engine) = open(folder.path());
        let mut inputs = Vec::new();
        for name in ["a", "b", "c"] {
            inputs.push(Input::new(&lake, name, generation, &mut random).await);
        }
        let mut sources: Vec<Source> = inputs
            .iter()
            .map(|input| Source {
                text: format!("{{{{ source('bronze', '{}') }}}}", input.name.table),
                columns: input.columns.clone(),
            })
            .collect();
        std::fs::create_dir_all(folder.path().join("sql")).unwrap();
        let mut same = BTreeMap::new();
        let mut names = 0;
        for n in 0..models {
            let depth = random.random_range(1..5);
            let mut maker = Maker { random: &mut random, sources: &sources, names, generation };
            let select = maker.select(depth);
            names = maker.names;
            let name = format!("m{n}");
            let text = format!("{{{{ config(materialized='incremental') }}}}\n{}\n", select.sql);
            std::fs::write(folder.path().join(format!("sql/{name}.sql")), text).unwrap();
            // A model that reads one that is not told apart is not either.
            let reads_ties = same.iter().any(|(other, same)| !same && select.sql.contains(&format!("ref('{other}')")));
            same.insert(name.clone(), !select.ties && !reads_ties && !select.sql.contains("random()"));
            sources.push(Source { text: format!("{{{{ ref('{name}') }}}}"), columns: select.columns });
        }
        let project = Project::load(&folder.path().join("sql"), &serde_json::Map::new())
            .unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
        Self {
            seed: Seed { generation, seed },
            random,
            folder,
            lake,
            engine,
            inputs,
            project,
            same,
            classes: BTreeMap::new(),
            happened: Vec::new(),
        }
    }

    pub(crate) fn classes(&self) -> &BTreeMap<String, u64> {
        &self.classes
    }

    /// One cut: something happens to some inputs, the models are built, and compared.
    pub(crate) async fn cut(&mut self, cut: u64) {
        for input in &mut self.inputs {
            while self.random.random_bool(0.4) {
                let what = input.live(&self.lake, &mut self.random).await;
                self.happened.push(format!("cut {cut}: {}: {what}", input.name));
            }
        }
        if self.random.random_bool(0.1) {
            (self.lake, self.engine) = open(self.folder.path());
            self.happened.push(format!("cut {cut}: the process began anew"));
        }
        if self.random.random_bool(0.15) {
            let left = self.random.random_range(1..200);
            for model in self.project.order(&[]).unwrap() {
                let inner = Box::pin(build(&self.engine, &self.project, model, NOW));
                if (Cut { inner, left }).await.is_none() {
                    self.happened.push(format!("cut {cut}: the build of {} stopped", model.name));
                }
            }
            (self.lake, self.engine) = open(self.folder.path());
        }
        for model in self.project.order(&[]).unwrap() {
            let built: Built = build(&self.engine, &self.project, model, NOW)
                .await
                .unwrap_or_else(|e| panic!("{}\n{}: {e:?}", self.story(), model.name));
            let class = match (&built.class, &built.full_because) {
                (None, _) => "unchanged".to_owned(),
                (Some(class), None) => class.to_string(),
                (Some(class), Some(why)) => {
                    assert!(
                        !why.contains("failed:") && !why.contains("does not hold"),
                        "{}\n{}: {why}",
                        self.story(),
                        model.name
                    );
                    format!("{class}: {}", why.split('`').next().unwrap_or_default())
                }
            };
            self.happened.push(format!("cut {cut}: {} {class} {:?}", model.name, built.changed));
            if built.class.is_some() {
                *self.classes.entry(class).or_default() += 1;
            }
            let found = verify(&self.engine, &self.project, model, None)
                .await
                .unwrap_or_else(|e| panic!("{}\n{}: {e:?}", self.story(), model.name));
            assert!(
                found.equal(),
                "{}\n{} lacks {} rows and has {} too many\n{:?}\n{:?}",
                self.story(),
                model.name,
                found.missing,
                found.surplus,
                found.missing_rows,
                found.surplus_rows
            );
            if self.same[&model.name] {
                let expected = self.rows(&model.sql).await;
                let stored = self.rows(&format!("SELECT * FROM {}", model.table)).await;
                assert!(expected == stored, "{}\n{}: a plain query gives other rows", self.story(), model.name);
            }
            if cut == 0 {
                explain(&self.engine, &self.project, model).await.unwrap_or_else(|e| panic!("{}\n{e:?}", self.story()));
            }
        }
    }

    /// The rows of a query as text, sorted; floating-point numbers to nine digits.
    async fn rows(&self, sql: &str) -> Vec<String> {
        let batches: Vec<RecordBatch> = self.engine.query(sql).await.unwrap().collect().await.unwrap();
        let options = FormatOptions::default().with_null("∅");
        let mut rows = Vec::new();
        for batch in batches {
            for row in 0..batch.num_rows() {
                let mut text = String::new();
                for column in batch.columns() {
                    if column.data_type() == &DataType::Float64 && column.is_valid(row) {
                        write!(text, "{:.8e}|", column.as_primitive::<Float64Type>().value(row)).unwrap();
                    } else {
                        write!(text, "{}|", ArrayFormatter::try_new(column, &options).unwrap().value(row)).unwrap();
                    }
                }
                rows.push(text);
            }
        }
        rows.sort_unstable();
        rows
    }

    fn story(&self) -> String {
        let mut story = format!("seed {} (TIDEMILL_MODEL_SEED={})\n", self.seed, self.seed);
        for model in self.project.models.values() {
            writeln!(story, "{}: {}", model.name, model.sql.trim()).unwrap();
        }
        let last = self.happened.len().saturating_sub(30);
        for what in &self.happened[last..] {
            writeln!(story, "  {what}").unwrap();
        }
        story
    }
}
