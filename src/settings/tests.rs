use super::*;

fn environment(pairs: &[(&str, &str)]) -> Environment {
    Environment(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
}

/// Loads a project whose file has this text.
fn load(text: &str, variables: &[(&str, &str)], flags: &[&str]) -> Result<Settings> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(FILE), text).unwrap();
    let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    Settings::load(&Inputs { root: folder.path(), environment: &environment(variables), flags: &flags })
}

fn problems(text: &str) -> Vec<String> {
    let failure = load(text, &[], &[]).unwrap_err();
    failure.each().map(|parts| format!("{} {}", parts.code, parts.what)).collect()
}

#[test]
fn the_defaults_are_valid_and_every_one_is_used_and_explained() {
    let mut wrong = Vec::new();
    let (known, entries) = defaults(&mut wrong);
    assert!(wrong.is_empty(), "{wrong:?}");
    let root = Path::new("/project");
    let nothing = environment(&[]);
    let mut typed =
        Typed { root, environment: &nothing, entries, problems: wrong, asked: BTreeSet::new(), listing: Vec::new() };

    let settings = typed.settings();

    assert!(typed.problems.is_empty(), "{:?}", typed.problems);
    assert_eq!(typed.asked.iter().cloned().collect::<Vec<_>>(), known.keys, "read = written");
    for section in layer::FREE {
        assert!(known.sections.iter().any(|known| known == section), "[{section}] is not in default.toml");
    }
    let mut explained = false;
    for line in DEFAULTS.lines() {
        assert!(
            line.starts_with('#') || line.is_empty() || line.starts_with('[') || explained,
            "no comment above: {line}"
        );
        explained = line.starts_with('#');
    }
    assert_eq!(settings.name, "project");
    assert_eq!(settings.lake.url.as_str(), "file:///project/lake/");
    assert_eq!(settings.lake.s3.endpoint, None);
    assert!(settings.lake.s3.path_style && !settings.lake.s3.allow_http);
    assert_eq!(settings.topics.broker, Broker::Embedded);
    assert_eq!(settings.schemas.registry, None);
    assert_eq!(settings.streams.linger, Duration::from_millis(250));
    assert_eq!(settings.streams.max_rows, 131_072);
    assert_eq!(settings.streams.max_bytes, ByteSize(32 << 20));
    assert_eq!(settings.streams.timestamps_without_zone, chrono_tz::UTC);
    assert_eq!(settings.engine.memory_limit, ByteSize(512_000_000));
    assert_eq!(settings.engine.spill_dir, Path::new("/project/.tidemill/spill"));
    assert_eq!(settings.engine.target_partitions, None);
    assert_eq!(settings.warehouse.place, Database::Sqlite("/project/warehouse.db".into()));
    assert_eq!(settings.server.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(settings.paths.inbox, Path::new("/project/data/inbox"));
    assert!(settings.vars.is_empty() && settings.topics.kafka.is_empty());
}

#[test]
fn file_then_environment_then_flags() {
    let file = "[streams]\nlinger_ms = 1\nmax_rows = 1\nmax_bytes = 2048\n";
    let variables = [("TIDEMILL_STREAMS__MAX_ROWS", "2"), ("TIDEMILL_STREAMS__MAX_BYTES", "4KiB")];

    let settings = load(file, &variables, &["streams.max_bytes=8KiB"]).unwrap();

    assert_eq!(settings.streams.linger, Duration::from_millis(1));
    assert_eq!(settings.streams.max_rows, 2);
    assert_eq!(settings.streams.max_bytes, ByteSize(8192));
    let from = |key: &str| settings.listing.iter().find(|listed| listed.key == key).unwrap().from.clone();
    assert_eq!(from("streams.linger_ms"), "tidemill.toml:2");
    assert_eq!(from("streams.max_rows"), "TIDEMILL_STREAMS__MAX_ROWS");
    assert_eq!(from("streams.max_bytes"), "--set");
    assert_eq!(from("lake.url"), "default");
}

#[test]
fn all_problems_come_at_once() {
    let found = problems(
        "lake = 1\n[topics]\nbroker = \"rabbit\"\n[streams]\nlinger_ms = \"x\"\nmax_rows = -1\ntimestamps_without_zone = \"Mars\"\n[sreams]\na = 1\n[engine]\nmemory_limit = [1]\n",
    );

    assert_eq!(
        found,
        [
            "S0005 `lake` must be a section",
            "S0004 unknown section `sreams`",
            "S0005 `engine.memory_limit` cannot be an array",
            "S0006 `topics.broker` is not valid",
            "S0005 `streams.linger_ms` is not valid",
            "S0006 `streams.max_rows` is not valid",
            "S0006 `streams.timestamps_without_zone` is not valid",
        ]
    );
}

#[test]
fn unknown_keys_get_a_suggestion_wherever_they_are_written() {
    let fix = |failure: Failure| failure.parts().fix.clone().unwrap();

    assert_eq!(fix(load("[lake]\nulr = \"x\"", &[], &[]).unwrap_err()), "did you mean `url`?");
    assert_eq!(fix(load("[lake]\nendpoint = \"x\"", &[], &[]).unwrap_err()), "did you mean `lake.s3.endpoint`?");
    assert_eq!(fix(load("", &[("TIDEMILL_LAKE__ULR", "x")], &[]).unwrap_err()), "did you mean `url`?");
    assert_eq!(fix(load("", &[("TIDEMILL_LAKE_URL", "x")], &[]).unwrap_err()), "did you mean `TIDEMILL_LAKE__URL`?");
    assert_eq!(fix(load("", &[], &["lake.ulr=x"]).unwrap_err()), "did you mean `url`?");
    assert!(load("", &[("TIDEMILL_TEST_KAFKA", "x")], &[]).is_ok(), "not ours to judge");
}

#[test]
fn secrets_are_resolved_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "hunter2\n").unwrap();
    let text = format!(
        "[warehouse]\nurl = \"postgres://ann:${{env:PW}}@db/x\"\npassword = \"file:{}\"\n[topics.kafka]\n\"sasl.password\" = \"${{env:PW}}\"\nsecurity.protocol = \"SASL_SSL\"\n[server]\ntoken = \"a$${{env:PW}}\"\n",
        file.display()
    );

    let settings = load(&text, &[("PW", "hunter2")], &[]).unwrap();

    assert_eq!(settings.warehouse.password.expose(), "hunter2");
    assert_eq!(settings.topics.kafka["sasl.password"].expose(), "hunter2");
    assert_eq!(settings.topics.kafka["security.protocol"].expose(), "SASL_SSL");
    assert_eq!(settings.server.token.expose(), "a${env:PW}");
    assert!(!format!("{settings:?}").contains("hunter2"));
}

#[test]
fn what_stands_for_a_secret_is_listed_as_it_was_written() {
    let settings = load("[vars]\ntoken = \"${env:PW}\"\n", &[("PW", "hunter2")], &[]).unwrap();
    assert_eq!(settings.vars["token"], "hunter2");
    let listed = settings.listing.iter().find(|listed| listed.key == "vars.token").unwrap();
    assert_eq!(listed.value, "${env:PW}");

    for text in
        ["[lake]\nurl = \"s3://ann:hunter2@bucket/x\"", "[lake.s3]\nendpoint = \"http://ann:hunter2@minio:9000\""]
    {
        let failure = load(text, &[], &[]).unwrap_err();
        assert!(!format!("{failure:?}").contains("hunter2"), "{failure:?}");
        assert!(failure.parts().why.as_deref().unwrap().contains("lake.s3.access_key_id"), "{failure:?}");
    }
}

#[test]
fn a_missing_variable_is_named_with_its_key() {
    let failure = load("[lake.s3]\nsecret_access_key = \"${env:NO_SUCH}\"", &[], &[]).unwrap_err();

    let parts = failure.parts();
    assert_eq!((parts.code, parts.what.as_str()), ("S0007", "`lake.s3.secret_access_key` is not valid"));
    assert_eq!(parts.why.as_deref(), Some("the environment has no variable `NO_SUCH`"));
    assert_eq!(parts.place.as_deref(), Some("tidemill.toml:2"));
    assert!(parts.excerpt.is_none(), "the line may hold a secret");
}

#[test]
fn only_secret_keys_read_files() {
    let settings = load("[project]\nname = \"file:/etc/hostname\"", &[], &[]).unwrap();
    assert_eq!(settings.name, "file:/etc/hostname");

    let failure = load("[server]\ntoken = \"file:/no/such/file\"", &[], &[]).unwrap_err();
    assert_eq!(failure.parts().code, "S0008");
}

#[test]
fn serving_the_world_needs_a_token() {
    let open = "[server]\nlisten = \"0.0.0.0:8080\"\n";

    assert_eq!(load(open, &[], &[]).unwrap_err().parts().code, "S0010");
    assert!(load(open, &[("TIDEMILL_SERVER__TOKEN", "x")], &[]).is_ok());
}

#[test]
fn connections_are_checked_in_form() {
    let kafka = load("[topics]\nbroker = \"kafka://a:9092,b:9093\"", &[], &[]).unwrap();
    assert_eq!(kafka.topics.broker, Broker::Kafka("a:9092,b:9093".to_owned()));
    assert_eq!(problems("[topics]\nbroker = \"kafka://a\"").len(), 1);
    assert_eq!(problems("[schemas]\nregistry = \"ftp://x\"").len(), 1);
    assert_eq!(problems("[lake]\nurl = \"gopher://x\"").len(), 1);
    assert_eq!(problems("[warehouse]\nurl = \"mysql://x\"").len(), 1);
    assert_eq!(load("[lake]\nurl = \"s3://b/p\"", &[], &[]).unwrap().lake.url.as_str(), "s3://b/p");
}

#[test]
fn vars_keep_their_types() {
    let settings = load("[vars]\na = 1\nb = \"1\"\nc = true\n", &[("TIDEMILL_VARS__D", "2.5")], &["vars.e=x"]).unwrap();

    assert_eq!(
        serde_json::Value::Object(settings.vars),
        serde_json::json!({"a": 1, "b": "1", "c": true, "d": 2.5, "e": "x"})
    );
}

#[test]
fn a_file_that_is_not_toml_says_where() {
    let failure = load("[lake\nurl = 1", &[], &[]).unwrap_err();

    assert_eq!(failure.parts().code, "S0003");
    assert!(failure.parts().excerpt.is_some());
}
