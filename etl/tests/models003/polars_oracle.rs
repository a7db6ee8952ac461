//! Windows, sessions and sales by a second engine.
use polars::prelude::{
    Column, DataFrame, DataType, IntoLazy, LazyFrame, NamedFrom, Series, SortMultipleOptions, UnionArgs, col, concat,
    lit, when,
};
use tidemill_etl::generate::shoppers::EventKind;

use super::lake::{Lake, Landed, Row, cents};
use super::oracle::{HOUR, QUARTER, of};

/// A column's name and its value for an event.
type TextColumn = (&'static str, fn(&Landed) -> String);

fn frame<'a>(landed: impl Iterator<Item = &'a Landed>, columns: &[TextColumn]) -> LazyFrame {
    let landed: Vec<&Landed> = landed.collect();
    let mut series = vec![
        Column::from(Series::new("at".into(), landed.iter().map(|landed| landed.at()).collect::<Vec<i64>>())),
        Column::from(Series::new("place".into(), landed.iter().map(|landed| landed.offset).collect::<Vec<i64>>())),
        Column::from(Series::new(
            "user".into(),
            landed.iter().map(|landed| landed.event.key.clone()).collect::<Vec<_>>(),
        )),
    ];
    for (name, value) in columns {
        let values: Vec<String> = landed.iter().map(|landed| value(landed)).collect();
        series.push(Column::from(Series::new((*name).into(), values)));
    }
    DataFrame::new_infer_height(series).unwrap().lazy()
}

/// The rows as text, sorted, in the form of [`Lake::rows`].
fn rows(frame: LazyFrame) -> Vec<Row> {
    let frame = frame.collect().unwrap();
    let columns: Vec<Series> =
        frame.columns().iter().map(|column| column.as_materialized_series().cast(&DataType::String).unwrap()).collect();
    let mut rows: Vec<Row> = (0..frame.height())
        .map(|row| {
            columns.iter().map(|column| column.str().unwrap().get(row).unwrap_or("-").to_owned()).collect::<Row>()
        })
        .collect();
    rows.sort();
    rows
}

fn windows(landed: &[Landed]) -> Vec<Row> {
    let registrations = || frame(of(landed, EventKind::ConsumerRegistration), &[]);
    let count = |start, kind: &str| {
        registrations()
            .with_column(Into::<polars::prelude::Expr>::into(start).alias("start"))
            .with_column(lit(kind).alias("type"))
            .select([col("type"), col("start"), col("user")])
    };
    let mut members = vec![count(col("at").floor_div(lit(HOUR)) * lit(HOUR), "tumbling")];
    for back in 0..4 {
        members.push(count((col("at").floor_div(lit(QUARTER)) - lit(back)) * lit(QUARTER), "sliding"));
    }
    rows(
        concat(members, UnionArgs::default())
            .unwrap()
            .group_by([col("type"), col("start")])
            .agg([col("user").n_unique().alias("users")])
            .select([col("type"), col("start"), (col("start") + lit(HOUR)).alias("end"), col("users")]),
    )
}

fn sessions(landed: &[Landed]) -> Vec<Row> {
    let signed = |kind, sign_in: i64| {
        frame(of(landed, kind), &[])
            .select([col("user"), col("at")])
            .with_columns([lit(sign_in).alias("in"), lit(1 - sign_in).alias("out")])
    };
    let next = |column: &str| col(column).shift(lit(-1)).over([col("user")]).unwrap();
    rows(
        concat([signed(EventKind::SignIn, 1), signed(EventKind::SignOut, 0)], UnionArgs::default())
            .unwrap()
            .group_by([col("user"), col("at")])
            .agg([col("in").max(), col("out").max()])
            .sort(["user", "at"], SortMultipleOptions::default())
            .with_columns([next("at").alias("next_at"), next("out").alias("next_out")])
            .filter(col("in").eq(lit(1)))
            .select([
                col("user"),
                col("at"),
                when(col("next_at").is_null()).then(col("at") + lit(12 * HOUR)).otherwise(col("next_at")).alias("end"),
                when(col("next_at").is_null())
                    .then(lit("timeout"))
                    .when(col("next_out").eq(lit(1)))
                    .then(lit("sign_out"))
                    .otherwise(lit("next_sign_in"))
                    .alias("by"),
            ]),
    )
}

fn sales(landed: &[Landed]) -> Vec<Row> {
    let checkouts = frame(
        of(landed, EventKind::CheckoutToCart),
        &[
            ("cart", |landed| landed.text("cart_id").to_owned()),
            ("movie", |landed| landed.text("movie_id").to_owned()),
            ("cents", |landed| cents(landed).to_string()),
        ],
    );
    rows(
        checkouts
            .with_column(col("cents").cast(DataType::Int64))
            .sort(["at", "place"], SortMultipleOptions::default().with_maintain_order(true))
            .group_by_stable([col("cart"), col("movie")])
            .agg([col("cents").first(), col("at").first()])
            .group_by([col("movie")])
            .agg([col("cents").sum(), col("cart").count().alias("units"), col("at").max()])
            .select([col("movie"), col("cents"), col("units"), col("at")]),
    )
}

/// Compares the models that have a second definition here.
pub(crate) async fn compare(lake: &Lake, landed: &[Landed], case: &str) {
    let windows_columns = ["window_type", "window_start", "window_end", "registrations"];
    assert_eq!(lake.rows("registration_windows", &windows_columns).await, windows(landed), "{case}: windows");
    let session_columns = ["user_id", "started_at", "ended_at", "ended_by"];
    assert_eq!(lake.rows("fact_session", &session_columns).await, sessions(landed), "{case}: sessions");
    let sales_columns = ["movie_id", "total_sales", "units", "aggregated_at"];
    assert_eq!(lake.rows("movie_sales", &sales_columns).await, sales(landed), "{case}: sales");
}
