//! The catalogue reader against plain re-implementations of its rules, hostile files, and the real catalogue.
#![expect(clippy::print_stdout, reason = "how much the random tests checked, and what was skipped")]
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Date32Type, Decimal128Type, Int64Type};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

/// An item that owns its text.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owned {
    id: i64,
    line: u64,
    attributes: Vec<(String, String, u64)>,
}

fn own(item: &Item<'_>) -> Owned {
    let attributes = item.attributes.iter().map(|a| (a.key.to_string(), a.value.to_string(), a.line)).collect();
    Owned { id: item.id, line: item.line, attributes }
}

fn feed<'a>(limits: Limits, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Owned>, Result<Tally, Problem>) {
    let mut items = Vec::new();
    let mut parser = Parser::new(limits);
    for piece in pieces {
        if let Err(problem) = parser.feed(piece, |item| items.push(own(item))) {
            return (items, Err(problem));
        }
    }
    let tally = parser.finish(|item| items.push(own(item)));
    (items, tally)
}

fn read(text: &[u8]) -> (Vec<Owned>, Tally) {
    let (items, tally) = feed(Limits::default(), [text]);
    (items, tally.unwrap())
}

fn values(item: &Owned) -> Vec<(&str, &str)> {
    item.attributes.iter().map(|(key, value, _)| (key.as_str(), value.as_str())).collect()
}

fn reasons(tally: &Tally) -> Vec<(u64, Reason)> {
    tally.junk.iter().map(|junk| (junk.line, junk.reason)).collect()
}

/// The rules once more, without blocks, limits or speed.
fn oracle(bytes: &[u8]) -> (Vec<Owned>, u64) {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let (mut items, mut junk): (Vec<Owned>, u64) = (Vec::new(), 0);
    let (mut open, mut after_blank) = (false, true);
    let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    if lines.last().is_some_and(|line| line.is_empty()) {
        lines.pop();
    }
    for (index, raw) in lines.into_iter().enumerate() {
        let line = match std::str::from_utf8(raw) {
            Ok(text) => text.to_owned(),
            Err(_) => encoding_rs::WINDOWS_1252.decode_without_bom_handling(raw).0.into_owned(),
        };
        let line = line.trim_end_matches('\r');
        let number = index as u64 + 1;
        let was_after_blank = std::mem::replace(&mut after_blank, false);
        if let Some(rest) = line.strip_prefix("ITEM ") {
            let rest = rest.trim_matches([' ', '\t', '\r', '\x0c']);
            let digits = !rest.is_empty() && rest.chars().all(|c| c.is_ascii_digit());
            let signed =
                rest.strip_prefix(['-', '+']).is_some_and(|d| !d.is_empty() && d.chars().all(|c| c.is_ascii_digit()));
            match rest.parse::<i64>() {
                Ok(id) if digits => {
                    items.push(Owned { id, line: number, attributes: Vec::new() });
                    open = true;
                }
                _ => {
                    junk += 1;
                    open &= !(digits || signed || was_after_blank);
                }
            }
        } else if let Some((key, value)) =
            line.split_once('=').filter(|(key, _)| !key.is_empty() && !key.contains([' ', '\t']))
        {
            match items.last_mut().filter(|_| open) {
                Some(item) => item.attributes.push((key.to_owned(), value.to_owned(), number)),
                None => junk += 1,
            }
        } else if line.trim_matches([' ', '\t', '\r', '\x0c']).is_empty() {
            after_blank = true;
        } else {
            junk += 1;
        }
    }
    (items, junk)
}

/// A file of everything that may stand in one.
fn random_file(random: &mut StdRng) -> Vec<u8> {
    const LINES: &[&[u8]] = &[
        b"Actor=Jackie Chan",
        b"Actor=Sammo Hung",
        b"Title=a=b==c",
        b"ListPrice=129900USD$1,299.00",
        b"Empty=",
        b"Director=Pl\xe1cido Domingo",
        "Name=Tran Nu Yên-Khê".as_bytes(),
        b"K\xe9y=\xc3\xa9 \xe9",
        b"no attribute",
        b"two words=x",
        b"=x",
        b"=",
        b"",
        b"",
        b" ",
        b"ITEM",
        b"ITEM x",
        b"ITEM NOT ELIGIBLE=1",
        b"ITEM -4",
        b"ITEM ",
        b"ITEM 99999999999999999999",
        b"item 3",
        b" ITEM 4",
        b"ITEM=5",
        b"Color=a\tb",
        b"X=1\r2",
        b"\xEF\xBB\xBFBom=1",
    ];
    let mut file = Vec::new();
    if random.random_bool(0.2) {
        file.extend_from_slice(b"\xEF\xBB\xBF");
    }
    for _ in 0..random.random_range(0..40) {
        if random.random_bool(0.25) {
            write!(
                file,
                "ITEM {}{}",
                random.random_range(0..50),
                ["", " ", "\t ", "                        "][random.random_range(0..4)]
            )
            .unwrap();
        } else {
            file.extend_from_slice(LINES[random.random_range(0..LINES.len())]);
        }
        file.extend_from_slice(if random.random_bool(0.3) { b"\r\n" } else { b"\n" });
    }
    if random.random_bool(0.3) {
        file.pop();
    }
    file
}

/// Cuts `bytes` at random places, empty pieces included.
fn random_pieces<'a>(random: &mut StdRng, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
    let widest = [1, 3, 20, 200][random.random_range(0..4)];
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(random.random_range(0..=widest).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

#[test]
fn any_split_of_any_file_gives_the_items_that_the_rules_give() {
    let mut random = StdRng::seed_from_u64(71);
    let (mut files, mut found) = (0, 0);
    for _ in 0..4_000 {
        let file = random_file(&mut random);
        let (expected, junk) = oracle(&file);
        let pieces = random_pieces(&mut random, &file);
        let whole = feed(Limits::default(), [file.as_slice()]);
        let split = feed(Limits::default(), pieces);
        assert_eq!(whole, split, "{}", String::from_utf8_lossy(&file));
        assert_eq!(whole.0, expected, "{}", String::from_utf8_lossy(&file));
        match whole.1 {
            Ok(tally) => {
                assert_eq!((tally.items, tally.junk_lines), (expected.len() as u64, junk));
                assert_eq!(tally.attributes, expected.iter().map(|item| item.attributes.len() as u64).sum::<u64>());
                assert_eq!(tally.lines, file.split_inclusive(|byte| *byte == b'\n').count() as u64);
                assert_eq!(tally.strictly_rising, expected.is_sorted_by(|a, b| a.id < b.id));
                assert_eq!(tally.first_id, expected.first().map(|item| item.id));
                assert_eq!(tally.last_id, expected.last().map(|item| item.id));
            }
            Err(Problem::Empty) => assert!(file.is_empty()),
            Err(Problem::NoItems { .. }) => assert!(expected.is_empty()),
            Err(problem) => panic!("{problem}"),
        }
        files += 1;
        found += expected.len();
    }
    println!("{files} random files with {found} items");
    assert!(found > 10_000);
}

#[test]
fn lines_and_items_over_the_limits_do_not_depend_on_the_split() {
    let mut random = StdRng::seed_from_u64(72);
    let limits = Limits { line: 24, item: 110 };
    let (mut good, mut large, mut long_lines) = (0, 0, 0);
    for _ in 0..4_000 {
        let file = random_file(&mut random);
        let whole = feed(limits, [file.as_slice()]);
        let split = feed(limits, random_pieces(&mut random, &file));
        match (&whole.1, &split.1) {
            (Ok(a), Ok(b)) => {
                // Of a long line more may be shown if all of it was at hand.
                assert_eq!((a.items, a.junk_lines, a.lines, reasons(a)), (b.items, b.junk_lines, b.lines, reasons(b)));
                assert_eq!(whole.0, split.0);
                good += 1;
                long_lines += reasons(a).iter().filter(|(_, reason)| *reason == Reason::TooLong).count();
            }
            (Err(Problem::NoItems { .. }), Err(Problem::NoItems { .. })) => {}
            (a, b) => {
                assert_eq!(a, b, "{}", String::from_utf8_lossy(&file));
                large += usize::from(matches!(a, Err(Problem::TooLarge { .. })));
            }
        }
    }
    println!("{good} files read, {long_lines} lines too long, {large} files refused");
    assert!(good > 500 && long_lines > 500 && large > 50);
}

#[test]
fn blocks_parsed_apart_add_up_to_the_file() {
    let mut random = StdRng::seed_from_u64(73);
    for _ in 0..500 {
        let file = random_file(&mut random);
        let mut blocks: Vec<(Vec<u8>, u64)> = Vec::new();
        let mut cutter = Cutter::new(Limits::default());
        let mut keep = |block: Block<'_>| {
            blocks.push((block.bytes.to_vec(), block.first_line));
            Ok(())
        };
        for piece in random_pieces(&mut random, &file) {
            cutter.push(piece, &mut keep).unwrap();
        }
        if file.is_empty() {
            continue;
        }
        cutter.finish(&mut keep).unwrap();
        assert_eq!(blocks.iter().flat_map(|(bytes, _)| bytes).copied().collect::<Vec<u8>>(), file);

        // Last block first, as on threads that overtake each other.
        let mut parts: Vec<(Vec<Owned>, Tally)> = Vec::new();
        for (bytes, first_line) in blocks.iter().rev() {
            let (mut items, mut tally) = (Vec::new(), Tally::default());
            let block = Block { bytes, first_line: *first_line, cut_short: &[] };
            parse_block(&block, Limits::default(), &mut tally, |item| items.push(own(item))).unwrap();
            parts.insert(0, (items, tally));
        }
        let (mut items, mut tally) = (Vec::new(), Tally::default());
        for (part, counted) in parts {
            items.extend(part);
            tally.add(counted);
        }
        let (whole, expected) = feed(Limits::default(), [file.as_slice()]);
        assert_eq!(items, whole);
        if let Ok(expected) = expected {
            assert_eq!(tally, expected);
        }
    }
}

#[test]
fn a_plain_file_gives_its_attributes_in_order() {
    let (items, tally) =
        read(b"\xEF\xBB\xBFITEM 1 \r\nActor=Jackie Chan\r\nActor=Sammo Hung\r\nTitle=a=b\r\n\r\nITEM 2\r\nTitle=x");
    assert_eq!(values(&items[0]), [("Actor", "Jackie Chan"), ("Actor", "Sammo Hung"), ("Title", "a=b")]);
    assert_eq!((items[1].id, items[1].line, values(&items[1])), (2, 6, vec![("Title", "x")]));
    assert_eq!((tally.items, tally.attributes, tally.lines, tally.junk_lines), (2, 4, 7, 0));
    assert!(tally.strictly_rising);
    assert_eq!((tally.first_id, tally.last_id), (Some(1), Some(2)));
}

#[test]
fn each_line_is_utf_8_or_else_windows_1252() {
    let (items, _) = read(b"ITEM 1\nA=Pl\xe1cido\nB=Kh\xc3\xaa\nC=\x80 \x93\nD=\xc3\xaa \xe1\n");
    assert_eq!(
        values(&items[0]),
        [("A", "Pl\u{e1}cido"), ("B", "Kh\u{ea}"), ("C", "\u{20ac} \u{201c}"), ("D", "\u{c3}\u{aa} \u{e1}")]
    );
}

#[test]
fn lines_that_are_nothing_are_counted_and_shown() {
    let (items, tally) = read(b"Early=1\nhello\nITEM 1\nTitle=x\nmore of the title\na b=c\n=d\n\nITEM 2\n");
    assert_eq!(items.len(), 2);
    assert_eq!(tally.junk_lines, 5);
    assert_eq!(
        reasons(&tally),
        [(1, Reason::Orphan), (2, Reason::Unknown), (5, Reason::Unknown), (6, Reason::Key), (7, Reason::Key)]
    );
    assert_eq!(tally.junk[1].text, "hello");

    let many = [b"ITEM 1\n".as_slice(), &b"?\n".repeat(1_000)].concat();
    let (_, tally) = read(&many);
    assert_eq!((tally.junk_lines, tally.junk.len()), (1_000, 20));
}

#[test]
fn a_broken_header_takes_no_attributes_from_and_gives_none_to_its_neighbours() {
    for header in ["ITEM -1", "ITEM +1", "ITEM 9223372036854775808", "\nITEM x", "\nITEM "] {
        let text = format!("ITEM 1\nTitle=a\n{header}\nTitle=b\nITEM 3\nTitle=c\n");
        let (items, tally) = read(text.as_bytes());
        assert_eq!(items.iter().map(|item| item.id).collect::<Vec<_>>(), [1, 3], "{header}");
        assert_eq!(values(&items[0]), [("Title", "a")], "{header}");
        assert_eq!(tally.junk.iter().map(|junk| junk.reason).collect::<Vec<_>>(), [Reason::Header, Reason::Orphan]);
    }
    // The second line of a text that happens to begin so is no header.
    let (items, tally) = read(b"ITEM 1\nTitle=a\nITEM not sold abroad\nUPC=b\n");
    assert_eq!(values(&items[0]), [("Title", "a"), ("UPC", "b")]);
    assert_eq!(reasons(&tally), [(3, Reason::Header)]);
}

#[test]
fn the_ends_of_the_number_range_are_items() {
    let (items, tally) = read(b"ITEM 0\nITEM 9223372036854775807\nITEM 007\n");
    assert_eq!(items.iter().map(|item| item.id).collect::<Vec<_>>(), [0, i64::MAX, 7]);
    assert!(!tally.strictly_rising);
    let (_, tally) = read(b"ITEM 1\nITEM 1\n");
    assert!(!tally.strictly_rising);
}

#[test]
fn what_is_no_catalogue_is_refused() {
    assert_eq!(feed(Limits::default(), [b"".as_slice()]).1, Err(Problem::Empty));
    assert_eq!(
        feed(Limits::default(), [b"a,b\n1,2\n".as_slice()]).1,
        Err(Problem::NoItems { first: "a,b".to_owned() })
    );
    assert!(matches!(feed(Limits::default(), [b"\n\n".as_slice()]).1, Err(Problem::NoItems { .. })));
    assert_eq!(feed(Limits::default(), [b"ITEM 1\nA=b\nC=\0\n".as_slice()]).1, Err(Problem::Binary { line: 3 }));
    let utf_16: Vec<u8> = "ITEM 1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(feed(Limits::default(), [utf_16.as_slice()]).1, Err(Problem::Binary { line: 1 }));
    // Refused before all of it is held in memory.
    let line = [b"x".repeat(1_000), b"\n".to_vec()].concat();
    let mut parser = Parser::new(Limits::default());
    let fed = (0..100_000).position(|_| parser.feed(&line, |_| ()).is_err()).unwrap();
    assert!((16_000..17_500).contains(&fed), "{fed}");
}

#[test]
fn a_line_of_2_gib_is_thrown_away_as_it_comes() {
    let mut parser = Parser::new(Limits::default());
    let mut items = Vec::new();
    parser.feed(b"ITEM 1\nTitle=a\nLong=", |item| items.push(own(item))).unwrap();
    let piece = vec![b'x'; 4 << 20];
    for _ in 0..512 {
        parser.feed(&piece, |item| items.push(own(item))).unwrap();
    }
    parser.feed(b"\nUPC=b\nITEM 2\nTitle=c\n", |item| items.push(own(item))).unwrap();
    let tally = parser.finish(|item| items.push(own(item))).unwrap();
    assert_eq!(values(&items[0]), [("Title", "a"), ("UPC", "b")]);
    assert_eq!((items[1].id, items[1].line), (2, 5));
    assert_eq!(reasons(&tally), [(3, Reason::TooLong)]);
    assert!(tally.junk[0].text.starts_with("Long=xxx"));
}

#[test]
fn an_item_beyond_the_limit_is_named() {
    let text = [b"ITEM 6\nA=b\nITEM 7\n".as_slice(), &b"Key=0123456789\n".repeat(1_200_000), b"ITEM 8\n"].concat();
    let expected = Problem::TooLarge { item: 7, line: 3, limit: 16 << 20 };
    assert_eq!(feed(Limits::default(), [text.as_slice()]).1, Err(expected.clone()));
    assert_eq!(feed(Limits::default(), text.chunks(65_521)).1, Err(expected));
}

// --- rows

fn rows(text: &[u8]) -> (Vec<RecordBatch>, Vec<Rejected>, Tally) {
    let mut builder = RowBuilder::new(RowLimits::default(), None).unwrap();
    let mut parser = Parser::new(Limits::default());
    parser.feed(text, |item| builder.push(item).unwrap()).unwrap();
    let mut tally = parser.finish(|item| builder.push(item).unwrap()).unwrap();
    let (batches, rejected) = builder.finish(&mut tally).unwrap();
    (batches, rejected, tally)
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> &'a dyn Array {
    batch.column_by_name(name).unwrap().as_ref()
}

/// The map of one row as text: `key=[value|value] …`.
fn attributes(batch: &RecordBatch, row: usize) -> String {
    let map = column(batch, "attributes").as_map();
    let entries = map.value(row);
    let keys = entries.column(0).as_string::<i32>();
    let lists = entries.column(1).as_list::<i32>();
    let entries = keys.iter().zip(lists.iter()).map(|(key, list)| {
        let list = list.unwrap();
        let values: Vec<&str> = list.as_string::<i32>().iter().map(Option::unwrap).collect();
        format!("{}=[{}]", key.unwrap(), values.join("|"))
    });
    entries.collect::<Vec<_>>().join(" ")
}

#[test]
fn rows_have_exact_prices_and_all_raw_values() {
    let (batches, rejected, tally) = rows(
        "ITEM 5\nActor=A\nActor=B\nGenre=Action\nGenre=Comedy\nListPrice=129900USD$1,299.00\nListPrice=1USD$0.01\n\
         ProductGroup=DVD\nReleaseDate=2011-11-01\nTitle=10-Movie\nTradeInValue=1299JPY¥1,299\n\n\
         ITEM 7\nTitle=b\nActor=C\nTitle=c\nListPrice=899USD$9.99\nReleaseDate=1969-12-31\nTradeInValue=\n\nITEM 9\n"
            .as_bytes(),
    );
    let [batch] = batches.as_slice() else { panic!("one batch") };
    assert_eq!(batch.schema(), item_schema());
    assert_eq!(column(batch, "item_id").as_primitive::<Int64Type>().values(), &[5, 7, 9]);
    assert_eq!(column(batch, "line").as_primitive::<Int64Type>().values(), &[1, 13, 21]);
    let prices: Vec<_> = column(batch, "list_price").as_primitive::<Decimal128Type>().iter().collect();
    assert_eq!(prices, [Some(129_900), Some(899), None]);
    let trade_in: Vec<_> = column(batch, "trade_in_value").as_primitive::<Decimal128Type>().iter().collect();
    assert_eq!(trade_in, [Some(129_900), None, None]);
    let currencies: Vec<_> = column(batch, "trade_in_value_currency").as_string::<i32>().iter().collect();
    assert_eq!(currencies, [Some("JPY"), None, None]);
    let dates: Vec<_> = column(batch, "release_date").as_primitive::<Date32Type>().iter().collect();
    assert_eq!(dates, [Some(15_279), Some(-1), None]);
    let titles: Vec<_> = column(batch, "title").as_string::<i32>().iter().collect();
    assert_eq!(titles, [Some("10-Movie"), Some("b"), None]);
    assert_eq!(
        attributes(batch, 0),
        "Actor=[A|B] Genre=[Action|Comedy] ListPrice=[129900USD$1,299.00|1USD$0.01] ProductGroup=[DVD] \
         ReleaseDate=[2011-11-01] Title=[10-Movie] TradeInValue=[1299JPY¥1,299]"
    );
    assert_eq!(
        attributes(batch, 1),
        "Title=[b|c] Actor=[C] ListPrice=[899USD$9.99] ReleaseDate=[1969-12-31] TradeInValue=[]"
    );
    assert_eq!(attributes(batch, 2), "");
    assert_eq!(rejected, []);
    assert_eq!((tally.price_differences, tally.rejected), (1, 0));
}

#[test]
fn values_that_cannot_be_used_are_null_and_rejected() {
    let (batches, rejected, tally) = rows(
        b"ITEM 1\nListPrice=free\nTradeInValue=99999999999USD\n\nReleaseDate=2017-02-29\nITEM 2\nReleaseDate=2017\n",
    );
    let batch = &batches[0];
    for name in ["list_price", "list_price_currency", "trade_in_value", "release_date"] {
        assert_eq!(column(batch, name).null_count(), 2, "{name}");
    }
    let told: Vec<_> =
        rejected.iter().map(|r| (r.item_id, r.line, r.field, r.reason.as_str(), r.raw.as_str())).collect();
    assert_eq!(
        told,
        [
            (1, 2, "ListPrice", "the price does not begin with an amount in minor units", "free"),
            (1, 3, "TradeInValue", "the price is larger than 99,999,999.99", "99999999999USD"),
            (1, 5, "ReleaseDate", "there is no such date", "2017-02-29"),
            (2, 7, "ReleaseDate", "the date is not of the form YYYY-MM-DD", "2017"),
        ]
    );
    assert_eq!(tally.rejected, 4);
}

#[test]
fn a_key_may_repeat_ten_thousand_times_and_keys_may_be_many_and_unordered() {
    let mut text = b"ITEM 1\n".to_vec();
    for n in 0..10_000 {
        writeln!(text, "Actor={n}").unwrap();
    }
    text.extend_from_slice(b"ITEM 2\n");
    for n in 0..200_000 {
        writeln!(text, "k{}={n}", (n * 7_919) % 100_003).unwrap();
    }
    let (batches, ..) = rows(&text);
    let map = column(&batches[0], "attributes").as_map();
    let first = map.value(0);
    assert_eq!((first.len(), first.column(1).as_list::<i32>().value(0).len()), (1, 10_000));
    let second = map.value(1);
    assert_eq!(second.len(), 100_003);
    let lists = second.column(1).as_list::<i32>();
    // n and n + 100,003 share a key; keys come in the order of their first value.
    for entry in [0, 1, 47, 48, 49, 50, 99_996] {
        let list = lists.value(entry);
        let values: Vec<_> = list.as_string::<i32>().iter().map(Option::unwrap).collect();
        assert_eq!(values, [entry.to_string(), (entry + 100_003).to_string()]);
    }
    assert_eq!(lists.value(99_997).len(), 1);
}

#[test]
fn grouping_keeps_each_value_under_its_key() {
    let mut random = StdRng::seed_from_u64(74);
    let mut checked = 0;
    for keys in [1, 3, 40, 60, 200] {
        for _ in 0..60 {
            let mut text = b"ITEM 1\n".to_vec();
            let mut expected: Vec<(usize, Vec<String>)> = Vec::new();
            for n in 0..random.random_range(0..400) {
                let key = random.random_range(0..keys);
                writeln!(text, "k{key}={n}").unwrap();
                match expected.iter_mut().find(|(known, _)| *known == key) {
                    Some((_, values)) => values.push(n.to_string()),
                    None => expected.push((key, vec![n.to_string()])),
                }
            }
            let expected: Vec<_> = expected.iter().map(|(key, v)| format!("k{key}=[{}]", v.join("|"))).collect();
            assert_eq!(attributes(&rows(&text).0[0], 0), expected.join(" "));
            checked += 1;
        }
    }
    println!("{checked} random items");
}

#[test]
fn a_projection_builds_only_what_is_asked_for() {
    let text = b"ITEM 3\nListPrice=899USD$8.99\nTitle=a\nITEM 4\nTitle=b\n";
    for (projection, names) in
        [(vec![1, 0], vec!["title", "item_id"]), (vec![5], vec!["list_price_currency"]), (vec![], vec![])]
    {
        let mut builder = RowBuilder::new(RowLimits { rows: 1, bytes: 100 }, Some(&projection)).unwrap();
        let mut parser = Parser::new(Limits::default());
        parser.feed(text, |item| builder.push(item).unwrap()).unwrap();
        let mut tally = parser.finish(|item| builder.push(item).unwrap()).unwrap();
        let (batches, _) = builder.finish(&mut tally).unwrap();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [1, 1]);
        let schema = batches[0].schema();
        assert_eq!(schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), names);
    }
}

#[test]
fn the_map_has_the_names_that_delta_tables_use() {
    use deltalake::kernel::engine::arrow_conversion::{TryIntoArrow, TryIntoKernel};

    let schema = item_schema();
    let stored: deltalake::kernel::StructType = schema.as_ref().try_into_kernel().unwrap();
    let back: arrow::datatypes::Schema = (&stored).try_into_arrow().unwrap();
    assert_eq!(back, *schema);
    assert!(matches!(schema.field(9).data_type(), DataType::Map(_, false)));
}

// --- files

async fn all(mut reader: ItemReader) -> Result<(Vec<ItemBatch>, Tally), ItemError> {
    let mut batches = Vec::new();
    while let Some(batch) = reader.next().await? {
        batches.push(batch);
    }
    assert_eq!(reader.progress().done, reader.progress().total);
    assert!(reader.next().await.unwrap().is_none());
    Ok((batches, reader.tally().clone()))
}

#[tokio::test]
async fn a_file_is_read_in_order_whatever_the_ranges() {
    let mut text = Vec::new();
    for n in 1..=500 {
        write!(text, "ITEM {n}\nActor=A{n}\nListPrice={n}USD$1\nReleaseDate=bad\nTitle=").unwrap();
        text.extend_from_slice(b"T\xe1\njunk\n\n");
    }
    let store = Arc::new(InMemory::new());
    store.put(&"a/Movies.txt".into(), text.clone().into()).await.unwrap();
    let mut expected = None;
    for (range, workers) in [(1, 1), (7, 4), (1_000, 2), (1 << 20, 2)] {
        let heard = Arc::new(std::sync::Mutex::new(Vec::new()));
        let hear = Arc::clone(&heard);
        let options = ReadOptions {
            range,
            workers,
            progress: Some(Arc::new(move |progress: Progress| hear.lock().unwrap().push(progress.done))),
            ..ReadOptions::default()
        };
        let shared: Arc<dyn object_store::ObjectStore> = Arc::<InMemory>::clone(&store);
        let reader = ItemReader::open(shared, "a/Movies.txt".into(), "m".to_owned(), options).await.unwrap();
        let schema = reader.schema();
        let (batches, tally) = all(reader).await.unwrap();
        let rows = arrow::compute::concat_batches(&schema, batches.iter().map(|batch| &batch.rows)).unwrap();
        let rejected: Vec<_> = batches.iter().flat_map(|batch| batch.rejected.clone()).collect();
        assert_eq!((rows.num_rows(), rejected.len(), tally.items, tally.junk_lines), (500, 500, 500, 500));
        assert!(heard.lock().unwrap().is_sorted());
        assert_eq!(heard.lock().unwrap().last(), Some(&(text.len() as u64)));
        let found = (rows, rejected, tally);
        assert_eq!(expected.get_or_insert(found.clone()), &found);
    }
}

async fn refused(content: &[u8]) -> ItemError {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("Movies.txt");
    std::fs::write(&file, content).unwrap();
    match ItemReader::open_path(&file, ReadOptions::default()).await {
        Ok(reader) => all(reader).await.unwrap_err(),
        Err(error) => error,
    }
}

#[tokio::test]
async fn files_that_cannot_be_read_say_why() {
    use crate::error::Explain;

    let large = [b"ITEM 7\n".as_slice(), &b"Key=0123456789\n".repeat(1_200_000)].concat();
    for (content, code, text) in [
        (b"".as_slice(), "F0101", "the file is empty"),
        (b"ITEM 1\nA=\0", "F0102", "line 2 holds a NUL byte"),
        (b"a,b\n", "F0103", "it begins with `a,b`"),
        (large.as_slice(), "F0104", "item 7 has more than 16777216 bytes"),
    ] {
        let error = refused(content).await;
        assert_eq!(error.code(), code);
        assert!(error.to_string().contains(text), "{error}");
        assert!(error.fix().is_some() && error.place().unwrap().contains("Movies.txt"));
    }
    let folder = tempfile::tempdir().unwrap();
    let missing = ItemReader::open_path(&folder.path().join("no.txt"), ReadOptions::default()).await.unwrap_err();
    assert_eq!(missing.code(), "F0105");
    let is_folder = ItemReader::open_path(folder.path(), ReadOptions::default()).await.unwrap_err();
    assert_eq!(is_folder.code(), "F0108");
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_is_not_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("Movies.txt");
    std::fs::write(&file, b"ITEM 1\nTitle=a\n".repeat(1_000)).unwrap();
    let options = ReadOptions { range: 100, ahead: 1, workers: 1, ..ReadOptions::default() };
    let mut reader = ItemReader::open_path(&file, options).await.unwrap();
    assert!(reader.next().await.unwrap().is_some());

    std::fs::write(&file, b"ITEM 2\nTitle=b\n".repeat(1_001)).unwrap();

    assert!(matches!(all(reader).await, Err(ItemError::Changed { .. })));
}

/// Sums of a whole catalogue: items, prices, their sum, trade-in values, their sum; in cents.
async fn sums(file: PathBuf) -> ((usize, usize, i128, usize, i128), Tally) {
    let reader = ItemReader::open_path(&file, ReadOptions::default()).await.unwrap();
    let (batches, tally) = all(reader).await.unwrap();
    let mut sums = (0, 0, 0, 0, 0);
    for batch in &batches {
        let prices = column(&batch.rows, "list_price").as_primitive::<Decimal128Type>();
        let trade_in = column(&batch.rows, "trade_in_value").as_primitive::<Decimal128Type>();
        sums.0 += batch.rows.num_rows();
        sums.1 += prices.len() - prices.null_count();
        sums.2 += prices.iter().flatten().sum::<i128>();
        sums.3 += trade_in.len() - trade_in.null_count();
        sums.4 += trade_in.iter().flatten().sum::<i128>();
    }
    (sums, tally)
}

#[tokio::test]
async fn the_full_catalogue_adds_up_to_the_cent() {
    #[expect(clippy::disallowed_methods, reason = "the variable that names a test's own input")]
    let named = std::env::var("TIDEMILL_TEST_MOVIES").ok().map(PathBuf::from);
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/Movies.txt");
    let Some(file) = named.or_else(|| beside.exists().then_some(beside)) else {
        println!("skipped: TIDEMILL_TEST_MOVIES names no catalogue and ../shared/data/Movies.txt is not there");
        return;
    };
    let (sums, tally) = sums(file).await;
    assert_eq!(sums, (8_701, 6_494, 36_453_264, 2_613, 1_534_101));
    assert_eq!((tally.items, tally.junk_lines, tally.rejected, tally.price_differences), (8_701, 0, 0, 0));
    assert!(tally.strictly_rising);
    assert_eq!((tally.first_id, tally.last_id), (Some(1), Some(8_701)));
}
