//! Catalogue files as they come: other line ends, other currencies, lines that are nothing, items twice, files that are
//! no catalogue at all. Every value that can be used is used; what cannot be is kept and said; nothing is tried again
//! that cannot work.
use serde_json::{Value, json};

use super::project::Project;

/// A byte order mark, CRLF and LF, `=` in a value, thousands, repeated keys, currencies, junk, no last line end.
const HOSTILE: &[u8] = b"\xef\xbb\xbfITEM 1\r\nTitle=A=B=C\r\nListPrice=129900USD$1,299.00\r\nActor=Ann, the first\r\nActor=Bob\r\n\r\n\
this line is nothing\r\nITEM 2\nTitle=Caf\xe9\nListPrice=cheap\n\nITEM 3\nTitle=Gr\xc3\xbc\xc3\x9fe\nListPrice=500EUR5,00\n\
ITEM 4\nTitle=No yen has cents\nListPrice=500JPY500\n\nITEM 5\nTitle=First\nITEM 5\nTitle=Last\nTradeInValue=25USD$0.25\nReleaseDate=2011-11-01";

#[test]
fn every_value_that_can_be_used_is_used() {
    let project = Project::new();
    project.write("hostile.txt", HOSTILE);

    let [landed, published] = project.catalogue("hostile.txt");

    assert_eq!((&landed["junk_lines"], &landed["replaced"], &landed["rejected"]), (&json!(1), &json!(1), &json!(1)));
    assert_eq!((&landed["inserted"], &published["records"]), (&json!(5), &json!(5)));
    let rows = project.rows(
        "select item_id, title, cast(list_price as varchar) price, list_price_currency currency, \
         cast(trade_in_value as varchar) trade, cast(release_date as varchar) released, attributes['Actor'] actors \
         from silver.movies order by item_id",
    );
    let row = |id: u32, title: &str, price: Option<&str>, currency: Option<&str>| {
        json!({ "item_id": id, "title": title, "price": price, "currency": currency,
                "trade": null, "released": null, "actors": null })
    };
    let mut known = vec![
        row(1, "A=B=C", Some("1299.00"), Some("USD")),
        row(2, "Café", None, None),
        row(3, "Grüße", Some("5.00"), Some("EUR")),
        row(4, "No yen has cents", Some("500.00"), Some("JPY")),
        row(5, "Last", None, None),
    ];
    known[0]["actors"] = json!(["Ann, the first", "Bob"]);
    known[4]["trade"] = json!("0.25");
    known[4]["released"] = json!("2011-11-01");
    assert_eq!(rows, Value::Array(known));
}

#[test]
fn a_price_nobody_can_read_is_one_dead_letter_however_often_it_comes() {
    let project = Project::new();
    project.write("hostile.txt", HOSTILE);
    project.catalogue("hostile.txt");

    project.catalogue("hostile.txt");

    let letters =
        project.rows("select topic_or_file file, offset_or_line line, reason, detail from bronze.dead_letters");
    assert_eq!(letters.as_array().unwrap().len(), 1, "{letters}");
    let letter = &letters[0];
    assert!(letter["file"].as_str().unwrap().ends_with("hostile.txt") && letter["line"] == 10, "{letter}");
    assert!(letter["detail"].as_str().unwrap().contains("item 2: ListPrice"), "{letter}");
    let ran = project.run(&["dead-letters", "list"]);
    assert!(ran.code == Some(0) && ran.out.contains("hostile.txt"), "{}{}", ran.out, ran.err);
}

#[test]
fn an_update_publishes_what_changed_and_nothing_else() {
    let project = Project::new();
    project.write("one.txt", "ITEM 1\nTitle=One\nListPrice=100USD$1.00\n\nITEM 2\nTitle=Two\n\nITEM 3\nTitle=Three\n");
    project.catalogue("one.txt");
    // Item 1 is the same, item 2 has a price now, item 3 is not in the file any more, item 4 is new.
    project.write(
        "two.txt",
        "ITEM 1\nTitle=One\nListPrice=100USD$1.00\n\nITEM 2\nTitle=Two\nListPrice=250USD$2.50\n\nITEM 4\nTitle=Four\n",
    );

    let [landed, published] = project.catalogue("two.txt");

    assert_eq!((&landed["inserted"], &landed["updated"], &landed["unchanged"]), (&json!(1), &json!(1), &json!(1)));
    assert_eq!((&published["records"], project.end("movies_catalog_enriched")), (&json!(2), 5));
    let tail = project.ok(&["topics", "tail", "movies_catalog_enriched", "--from", "3"]);
    let records: Vec<Value> = tail.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut ids: Vec<&str> = records.iter().map(|record| record["value"]["movie_id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["2", "4"], "{tail}");
    let titles = project.rows("select title from silver.movies order by item_id");
    assert_eq!(titles, json!([{ "title": "One" }, { "title": "Two" }, { "title": "Three" }, { "title": "Four" }]));
}

#[test]
fn what_is_no_catalogue_fails_at_once_and_says_why() {
    let project = Project::new();
    project.write("empty.txt", "");
    project.write("binary.txt", [0u8, 1, 2, 3, 255, 0].repeat(1000));
    project.write("prose.txt", "Dear Sir or Madam,\nplease find no items enclosed.\n");
    for (file, code, says) in [
        ("missing.txt", "F0105", "there is no such file"),
        ("empty.txt", "F0101", "the file is empty"),
        ("binary.txt", "F0102", "NUL"),
        ("prose.txt", "F0103", "prose.txt"),
    ] {
        let err = project.fails(4, &["dags", "run", "movies_catalog", "--param", &format!("file={file}")]);

        assert!(err.contains(&format!("error[{code}]: ")) && err.contains(says), "{file}: {err}");
        assert!(!err.contains("cannot cannot"), "{file}: {err}");
        assert!(err.contains("where: ") && err.contains("fix:   "), "{file}: {err}");
        assert!(!err.contains("tried again"), "{file}: waiting mends no file: {err}");
    }
    assert!(!project.tables().iter().any(|(name, rows)| name == "silver.movies" && *rows > 0));
}
