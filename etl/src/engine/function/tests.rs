//! The functions through SQL.
use std::path::Path;
use std::sync::Arc;

use arrow::util::pretty::pretty_format_batches;
use datafusion::prelude::SessionContext;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use url::Url;

use super::register;

const CATALOGUE: &str = "ITEM 1\nActor=A\nActor=B\nListPrice=129900USD$1,299.00\nTitle=a=b\n\n\
                         ITEM 2\nListPrice=free\nTitle=c\njunk\nITEM 3\nListPrice=899USD$8.99\n";

async fn run(ctx: &SessionContext, sql: &str) -> Result<String, datafusion::error::DataFusionError> {
    let batches = ctx.sql(sql).await?.collect().await?;
    Ok(pretty_format_batches(&batches).unwrap().to_string())
}

/// The cells of the answer, rows apart by `/`.
async fn cells(ctx: &SessionContext, sql: &str) -> String {
    let text = run(ctx, sql).await.unwrap();
    let rows = text.lines().filter(|line| line.starts_with('|')).skip(1);
    let row = |line: &str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join(",");
    rows.map(row).collect::<Vec<_>>().join("/")
}

fn session(base: &Path) -> SessionContext {
    let ctx = SessionContext::new();
    register(&ctx, base);
    ctx
}

#[tokio::test]
async fn parse_price_gives_an_exact_amount_and_a_currency_or_null() {
    let ctx = session(Path::new("."));

    let prices = "select p['amount'], p['currency'], p is null from (select parse_price(t) p from (values \
                  ('899USD$8.99'), ('129900USD$1,299.00'), ('1299JPY¥1,299'), ('free'), ('')) v(t))";
    assert_eq!(cells(&ctx, prices).await, "8.99,USD,false/1299.00,USD,false/1299.00,JPY,false/,,true/,,true");
    assert_eq!(cells(&ctx, "select parse_price('25USD$0.25')['amount'] * 3").await, "0.75");
    assert_eq!(cells(&ctx, "select parse_price(null) is null").await, "true");
    let kind = "select arrow_typeof(parse_price('1USD')['amount'])";
    assert_eq!(cells(&ctx, kind).await, "Decimal128(10, 2)");
}

#[tokio::test]
async fn read_items_reads_a_file_beside_the_project() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("in")).unwrap();
    std::fs::write(folder.path().join("in/Movies of May.txt"), CATALOGUE).unwrap();
    let ctx = session(folder.path());

    let all = "select item_id, title, list_price, list_price_currency, line from read_items('in/Movies of May.txt')";
    assert_eq!(cells(&ctx, all).await, "1,a=b,1299.00,USD,1/2,c,,,7/3,,8.99,USD,11");
    let sum = "select sum(list_price), count(*) from read_items('in/../in/Movies of May.txt') where item_id > 1";
    assert_eq!(cells(&ctx, sum).await, "8.99,2");
    assert_eq!(cells(&ctx, "select count(*) from read_items('in/Movies of May.txt')").await, "3");
    let second = "select attributes['Actor'][2] from read_items('in/Movies of May.txt') limit 1";
    assert_eq!(cells(&ctx, second).await, "B");
    let url = Url::from_file_path(folder.path().join("in/Movies of May.txt")).unwrap();
    assert_eq!(cells(&ctx, &format!("select max(item_id) from read_items('{url}')")).await, "3");
}

#[tokio::test]
async fn read_items_reads_from_a_store_of_the_session() {
    let store = Arc::new(InMemory::new());
    store.put(&"raw/Movies.txt".into(), CATALOGUE.into()).await.unwrap();
    let ctx = session(Path::new("."));
    let shared: Arc<dyn ObjectStore> = store;
    ctx.register_object_store(&Url::parse("mem://lake").unwrap(), shared);

    assert_eq!(cells(&ctx, "select count(*) from read_items('mem://lake/raw/Movies.txt')").await, "3");
}

#[tokio::test]
async fn read_items_says_what_it_cannot_read() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("empty.txt"), "").unwrap();
    let ctx = session(folder.path());

    for (place, told) in [
        ("'no.txt'", "there is no such file"),
        ("'empty.txt'", "the file is empty"),
        ("'.'", "it is a folder"),
        ("'s3://unknown/Movies.txt'", "as the place of a catalogue"),
        ("1", "read_items takes one text"),
        ("'a', 'b'", "read_items takes one text"),
    ] {
        let error = run(&ctx, &format!("select * from read_items({place})")).await.unwrap_err();
        assert!(error.to_string().contains(told), "{place}: {error}");
    }
}
