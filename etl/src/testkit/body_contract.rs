//! What every way of writing records must keep, whatever the records.
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use futures::future::BoxFuture;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::pipeline::body::{Body, Taken};
use crate::record::Record;
use crate::table::{TableName, merged, project};

/// Opens a body on a table with these columns of its own, or on none.
pub type OpenBody<'a> = &'a (dyn Fn(Option<Schema>) -> BoxFuture<'static, Box<dyn Body>> + Sync);

/// What became of records: their rows, and a word for each of them.
#[derive(Debug)]
struct Landed {
    columns: SchemaRef,
    rows: RecordBatch,
    /// `row`, `nothing` or `refused`, and the record's schema. Not the reason: a record may have several faults, and which
    /// of them is found may depend on the columns that are known.
    words: Vec<(&'static str, Option<i32>)>,
}

/// Runs every case of the contract on these records, good and bad ones; returns how many were rows and how many were
/// refused, so that the caller can see that both were among them. `seed` decides the cuts.
pub async fn body_contract(open: OpenBody<'_>, records: &[Record], seed: u64) -> (usize, usize) {
    let whole = land(open, records, &[], None).await;
    the_cuts_do_not_matter(open, records, &whole, seed).await;
    a_bad_record_costs_nothing_but_itself(open, records, &whole, seed).await;
    let refused = whole.words.iter().filter(|(word, _)| *word == "refused").count();
    (whole.rows.num_rows(), refused)
}

/// Lands the records in micro-batches that end at `cuts`; before the one that begins at `restart` the body is opened
/// anew, as after a crash.
async fn land(open: OpenBody<'_>, records: &[Record], cuts: &[usize], restart: Option<usize>) -> Landed {
    let mut body = open(None).await;
    let mut landed: Vec<RecordBatch> = Vec::new();
    let mut words = Vec::new();
    let mut from = 0;
    for &to in cuts.iter().chain([&records.len()]) {
        if restart == Some(from) {
            body = open(Some(body.columns().as_ref().clone())).await;
        }
        let part = &records[from..to];
        let before = SchemaRef::clone(body.columns());
        body.prepare(part).await.expect("nothing to wait for");
        columns_only_grow(&before, body.columns());
        let prepared = SchemaRef::clone(body.columns());
        let mut rows = 0;
        for record in part {
            words.push(match body.read(record) {
                Ok(Taken::Row(id)) => {
                    rows += 1;
                    ("row", id)
                }
                Ok(Taken::Nothing) => ("nothing", None),
                Err(refused) => {
                    assert!(!refused.reason.is_empty() && !refused.detail.is_empty(), "{refused:?}");
                    ("refused", refused.schema_id)
                }
            });
        }
        assert_eq!(body.columns(), &prepared, "columns may grow in `prepare` only");
        let batch = body.flush().expect("columns that form a batch");
        assert_eq!((batch.num_rows(), &batch.schema()), (rows, &prepared), "as many rows as were taken");
        landed.push(batch);
        from = to;
    }
    let columns = SchemaRef::clone(body.columns());
    let landed: Vec<RecordBatch> = landed.iter().map(|rows| in_columns(rows, &columns)).collect();
    Landed { rows: concat_batches(&columns, &landed).unwrap(), columns, words }
}

fn in_columns(rows: &RecordBatch, columns: &SchemaRef) -> RecordBatch {
    project(rows, columns, &TableName::new("bronze", "contract")).unwrap()
}

fn columns_only_grow(before: &Schema, after: &Schema) {
    for field in before.fields() {
        let now = after.field_with_name(field.name()).expect("a column went away");
        let grown: Option<DataType> = merged(field.data_type(), now.data_type());
        assert_eq!(grown.as_ref(), Some(now.data_type()), "`{}` changed its type", field.name());
    }
}

async fn the_cuts_do_not_matter(open: OpenBody<'_>, records: &[Record], whole: &Landed, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let single: Vec<usize> = (1..records.len()).collect();
    let random: Vec<usize> = (1..records.len()).filter(|_| rng.random_range(0..7) == 0).collect();
    let middle = random.get(random.len() / 2).copied();
    for (cuts, restart) in [(&single, None), (&random, None), (&random, middle)] {
        let cut = land(open, records, cuts, restart).await;
        assert_eq!(cut.words, whole.words, "seed {seed}: cut at {cuts:?}, opened anew at {restart:?}");
        assert_eq!(
            sorted(&cut.columns),
            sorted(&whole.columns),
            "seed {seed}: cut at {cuts:?}, opened anew at {restart:?}"
        );
        let rows = in_columns(&cut.rows, &whole.columns);
        assert_eq!(rows, whole.rows, "seed {seed}: cut at {cuts:?}, opened anew at {restart:?}");
    }
}

/// The columns without their order, which a table does not promise.
fn sorted(columns: &Schema) -> Vec<String> {
    let mut all: Vec<String> = columns.fields().iter().map(|field| format!("{field:?}")).collect();
    all.sort();
    all
}

async fn a_bad_record_costs_nothing_but_itself(open: OpenBody<'_>, records: &[Record], whole: &Landed, seed: u64) {
    let good = |(_, (word, _)): &(&Record, &(&str, Option<i32>))| *word != "refused";
    let good: Vec<Record> = records.iter().zip(&whole.words).filter(good).map(|(record, _)| record.clone()).collect();
    let alone = land(open, &good, &[], None).await;
    let refused = alone.words.iter().find(|(word, _)| *word == "refused");
    assert_eq!(refused, None, "seed {seed}: a record was taken only beside bad ones");
    assert_eq!(in_columns(&alone.rows, &whole.columns), whole.rows, "seed {seed}");
}
