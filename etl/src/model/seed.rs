//! CSV files as tables.
//!
//! Types are inferred as dbt does it: whole numbers, numbers, booleans, dates, instants, else text; an empty value and
//! `null` are NULL. Unlike there, numbers that begin with a zero stay text: `007` is a code. A seed's table carries txn
//! `{seed}/content` = a digest of the file and of the types given, in the commit of its rows: the same file again changes
//! nothing.
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel as _;
use deltalake::kernel::{Action, MetadataExt as _, StructType};
use serde_json::json;

use super::error::ModelError;
use super::project::Seed;
use crate::error::Result;
use crate::table::{Commit, FileWriter, Guard, Lake, Operation, WriteOptions, parse_type};

/// What loading a seed came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// The version its table is at.
    pub version: u64,
    /// Rows in the table, where it was written.
    pub rows: Option<u64>,
    /// Whether nothing had to be done.
    pub unchanged: bool,
}

/// Changes when the same file would give other columns.
const FORM: &str = "seed 1";

/// Brings a seed's table to what its file holds, unless it is that already.
///
/// # Errors
/// [`ModelError::Seed`] if the file cannot be read as a table; a [`TableError`](crate::table::TableError) if it cannot be
/// committed.
pub async fn load_seed(lake: &Lake, seed: &Seed, now: DateTime<Utc>) -> Result<Loaded> {
    let bytes = std::fs::read(&seed.file).map_err(|error| broken(seed, None, error.to_string()))?;
    let mut digest = blake3::Hasher::new();
    for part in [FORM.as_bytes(), &bytes, format!("{:?} {}", seed.column_types, seed.delimiter).as_bytes()] {
        digest.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    let digest = digest.finalize();
    let (head, _) = digest.as_bytes().split_at(8);
    let content = i64::from_le_bytes(head.try_into().unwrap_or_default()) & i64::MAX;
    let app = format!("{}/content", seed.name);
    if let Some(table) = lake.try_table(&seed.table).await?
        && table.txn(&app).await? == Some(content)
    {
        return Ok(Loaded { version: table.version(), rows: None, unchanged: true });
    }
    let batch = parse(seed, &bytes)?;
    let schema = batch.schema();
    let _computing = lake.compute(&seed.table).await;
    let mut table = lake.ensure(&seed.table, &schema, &[]).await?;
    let before = table.txn(&app).await?;
    let mut writer = FileWriter::new(&table, Arc::clone(&schema), WriteOptions::default(), now);
    writer.write(&batch).await?;
    let rows = writer.rows();
    let mut commit = Commit::new(Operation::Overwrite, Guard::Exclusive, now);
    if table.schema()?.fields() != schema.fields() {
        let store = |source| ModelError::Store { model: seed.name.clone(), source };
        let columns: StructType = schema.as_ref().try_into_kernel().map_err(store)?;
        let metadata = table.metadata()?.with_schema(&columns);
        let changed =
            metadata.map_err(|e| crate::table::TableError::delta("change the columns of", table.name(), e.into()))?;
        commit.actions.push(Action::Metadata(changed));
    }
    commit.actions.extend(table.removes(|_| false, now)?.into_iter().map(Action::Remove));
    commit.actions.extend(writer.finish().await?.into_iter().map(Action::Add));
    commit.txns = vec![(app.clone(), content)];
    commit.expected = vec![(app, before)];
    commit.metrics = json!({ "numOutputRows": rows });
    let version = table.commit(commit).await?.version;
    Ok(Loaded { version, rows: Some(rows), unchanged: false })
}

/// The columns that a seed's table has, by its file.
pub(super) fn schema(seed: &Seed) -> Result<SchemaRef> {
    let bytes = std::fs::read(&seed.file).map_err(|error| broken(seed, None, error.to_string()))?;
    Ok(parse(seed, &bytes)?.schema())
}

fn broken(seed: &Seed, line: Option<u64>, why: String) -> ModelError {
    ModelError::Seed { seed: seed.name.clone(), file: seed.file.clone(), line, why }
}

/// All rows of the file. Seeds are small: they are kept in the project's repository.
fn parse(seed: &Seed, bytes: &[u8]) -> Result<RecordBatch> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut reader = csv::ReaderBuilder::new().delimiter(seed.delimiter).from_reader(bytes);
    let failed = |error: &csv::Error| broken(seed, error.position().map(csv::Position::line), error.to_string());
    let names: Vec<String> =
        reader.headers().map_err(|e| failed(&e))?.iter().map(|name| name.trim().to_owned()).collect();
    if names.iter().all(String::is_empty) {
        return Err(broken(seed, Some(1), "it has no line with the names of columns".to_owned()).into());
    }
    for (at, name) in names.iter().enumerate() {
        if name.is_empty() || names.iter().take(at).any(|other| other.eq_ignore_ascii_case(name)) {
            let why = if name.is_empty() {
                format!("column {} has no name", at + 1)
            } else {
                format!("the column `{name}` is there twice")
            };
            return Err(broken(seed, Some(1), why).into());
        }
    }
    let mut columns: Vec<Vec<Option<String>>> = vec![Vec::new(); names.len()];
    let mut lines = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| failed(&e))?;
        lines.push(record.position().map_or(0, csv::Position::line));
        for (column, value) in columns.iter_mut().zip(record.iter()) {
            let null = value.is_empty() || value.eq_ignore_ascii_case("null");
            column.push((!null).then(|| value.to_owned()));
        }
    }
    let mut fields = Vec::new();
    let mut arrays: Vec<ArrayRef> = Vec::new();
    for (name, values) in names.iter().zip(&columns) {
        let given = seed.column_types.iter().find(|(column, _)| column.eq_ignore_ascii_case(name));
        let data_type = match given {
            Some((_, text)) => parse_type(&delta_name(text))
                .map_err(|e| broken(seed, Some(1), format!("the type `{text}` of `{name}` is not known: {}", e.why)))?,
            None => infer(values),
        };
        let (array, bad) = convert(values, &data_type);
        let Some(array) = array else {
            let (line, value) =
                bad.and_then(|row| Some((*lines.get(row)?, values.get(row)?.clone()?))).unwrap_or_default();
            let why = format!("`{value}` in the column `{name}` is no {}", crate::table::type_name(&data_type));
            return Err(broken(seed, Some(line), why).into());
        };
        fields.push(Field::new(name, data_type, true));
        arrays.push(array);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
        .map_err(|source| ModelError::Store { model: seed.name.clone(), source }.into())
}

/// Names of types as other databases have them, as a Delta table has them.
fn delta_name(text: &str) -> String {
    let lower = text.trim().to_lowercase();
    let (head, rest) = lower.split_once('(').map_or((lower.as_str(), ""), |(head, rest)| (head.trim(), rest));
    match head {
        "varchar" | "character varying" | "char" | "string" | "text" | "nvarchar" | "uuid" => "text".to_owned(),
        "int" | "int4" | "integer" | "smallint" | "tinyint" => "integer".to_owned(),
        "bigint" | "int8" | "int64" | "long" => "bigint".to_owned(),
        "float" | "float8" | "float64" | "double" | "double precision" => "double".to_owned(),
        "float4" | "real" => "real".to_owned(),
        "numeric" | "number" | "decimal" if rest.is_empty() => "decimal(38,9)".to_owned(),
        "numeric" | "number" | "decimal" if !rest.contains(',') => format!("decimal({},0)", rest.trim_end_matches(')')),
        "numeric" | "number" | "decimal" => format!("decimal({rest}"),
        "bool" => "boolean".to_owned(),
        "datetime"
        | "timestamptz"
        | "timestamp_ntz"
        | "timestamp_tz"
        | "timestamp with time zone"
        | "timestamp without time zone" => "timestamp".to_owned(),
        _ => lower.clone(),
    }
}

/// The narrowest type that all values have.
fn infer(values: &[Option<String>]) -> DataType {
    let seen: Vec<&str> = values.iter().flatten().map(String::as_str).collect();
    let all = |test: fn(&str) -> bool| !seen.is_empty() && seen.iter().all(|value| test(value));
    if all(|value| whole(value) && value.parse::<i64>().is_ok()) {
        DataType::Int64
    } else if all(number) {
        DataType::Float64
    } else if all(|value| value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false")) {
        DataType::Boolean
    } else if all(|value| date(value).is_some()) {
        DataType::Date32
    } else if all(|value| instant(value).is_some() || date(value).is_some()) {
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
    } else {
        DataType::Utf8
    }
}

fn whole(value: &str) -> bool {
    let digits = value.strip_prefix(['-', '+']).unwrap_or(value);
    let zero = digits.len() > 1 && digits.starts_with('0');
    !digits.is_empty() && !zero && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn number(value: &str) -> bool {
    let digits = value.strip_prefix(['-', '+']).unwrap_or(value);
    let code = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
    let long = whole(value) && value.parse::<i64>().is_err();
    !code && !long && digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') && value.parse::<f64>().is_ok()
}

fn date(value: &str) -> Option<NaiveDate> {
    let long = value.len() == 10 && value.is_ascii();
    long.then(|| NaiveDate::parse_from_str(value, "%Y-%m-%d").ok()).flatten()
}

fn instant(value: &str) -> Option<DateTime<Utc>> {
    if let Ok(at) = DateTime::parse_from_rfc3339(value) {
        return Some(at.to_utc());
    }
    let formats = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M"];
    formats.iter().find_map(|format| Some(NaiveDateTime::parse_from_str(value, format).ok()?.and_utc()))
}

/// The values in their type, or the first row whose value has another.
fn convert(values: &[Option<String>], data_type: &DataType) -> (Option<ArrayRef>, Option<usize>) {
    let spelled = |value: &Option<String>| match data_type {
        // One spelling of instants, so that all that were inferred are read.
        DataType::Timestamp(..) => {
            let value = value.as_deref()?;
            let at = instant(value).or_else(|| Some(date(value)?.and_hms_opt(0, 0, 0)?.and_utc()));
            Some(at.map_or_else(|| value.to_owned(), |at| at.to_rfc3339()))
        }
        _ => value.clone(),
    };
    let texts: StringArray = values.iter().map(spelled).collect();
    if *data_type == DataType::Utf8 {
        return (Some(Arc::new(texts)), None);
    }
    let exact = CastOptions { safe: false, ..CastOptions::default() };
    if let Ok(array) = cast_with_options(&texts, data_type, &exact) {
        return (Some(array), None);
    }
    let lenient = cast_with_options(&texts, data_type, &CastOptions::default()).ok();
    (None, lenient.and_then(|array| (0..values.len()).find(|row| values[*row].is_some() && array.is_null(*row))))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::table::TableName;

    fn seed(types: &[(&str, &str)]) -> Seed {
        Seed {
            name: "codes".to_owned(),
            table: TableName::new("seeds", "codes"),
            file: "codes.csv".into(),
            folder: String::new(),
            tags: std::collections::BTreeSet::default(),
            description: String::new(),
            columns: Vec::new(),
            column_types: types.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<BTreeMap<_, _>>(),
            delimiter: b',',
        }
    }

    fn types(text: &str) -> Vec<String> {
        let batch = parse(&seed(&[]), text.as_bytes()).unwrap();
        batch.schema().fields().iter().map(|field| crate::table::type_name(field.data_type())).collect()
    }

    #[test]
    fn types_are_inferred_and_codes_stay_text() {
        let text = "id,code,price,day,at,ok,name,none\n1,007,1.5,2026-01-31,2026-01-31 10:00:00,true,\"a, b\",\n-2,010,3,2026-02-01,2026-02-01T00:00:00+02:00,FALSE,null,\n";

        assert_eq!(types(text), ["bigint", "text", "double", "date", "timestamp (UTC)", "boolean", "text", "text"]);
        let batch = parse(&seed(&[]), text.as_bytes()).unwrap();
        assert_eq!(batch.column(6).null_count(), 1);
        let at = arrow::util::display::array_value_to_string(batch.column(4), 1).unwrap();
        assert_eq!(at, "2026-01-31T22:00:00Z");
        assert_eq!(types("n\n99999999999999999999\n"), ["text"]);
    }

    #[test]
    fn a_given_type_holds_or_says_which_value_breaks_it() {
        let batch = parse(&seed(&[("price", "numeric(10,2)"), ("id", "varchar(10)")]), b"id,price\n1,12.50\n").unwrap();
        assert_eq!(batch.schema().field(1).data_type(), &DataType::Decimal128(10, 2));
        assert_eq!(batch.schema().field(0).data_type(), &DataType::Utf8);

        let error = parse(&seed(&[("price", "bigint")]), b"id,price\n1,2\n2,dear\n").unwrap_err();

        assert_eq!(error.explain().place().as_deref(), Some("codes.csv:3"));
        assert!(error.why().unwrap().contains("`dear` in the column `price` is no bigint"), "{error:?}");
    }

    #[test]
    fn a_ragged_line_and_a_double_name_are_named() {
        let ragged = parse(&seed(&[]), b"a,b\n1,2\n3\n").unwrap_err();
        let double = parse(&seed(&[]), b"a,A\n1,2\n").unwrap_err();

        assert_eq!(ragged.explain().place().as_deref(), Some("codes.csv:3"));
        assert!(double.why().unwrap().contains("twice"), "{double:?}");
    }
}
