//! The face over real HTTP: the contract through our own client, and Confluent's codes and payloads one by one.
use std::sync::Arc;

use serde_json::{Value, json};
use tidemill_etl::schema_registry::{ConfluentRegistry, Draft, EmbeddedRegistry, Registry as _};
use tidemill_etl::secret::Secret as EtlSecret;
use tidemill_etl::table::{Lake, S3Settings};
use tidemill_etl::testkit::registry_contract;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::failure::Result;
use crate::metrics::Metrics;
use crate::server::tests::{Shop, options};
use crate::server::{Options, Server};

const ONE: &str = r#"{"type":"record","name":"R","fields":[{"name":"id","type":"long"}]}"#;
const TWO: &str =
    r#"{"type":"record","name":"R","fields":[{"name":"id","type":"long"},{"name":"n","type":"int","default":0}]}"#;
const BAD: &str = r#"{"type":"record","name":"R","fields":[{"name":"id","type":"string"}]}"#;

/// A server with an empty registry in a folder of its own.
struct Served {
    address: std::net::SocketAddr,
    registry: Arc<EmbeddedRegistry>,
    stop: CancellationToken,
    serving: JoinHandle<Result<()>>,
    _folder: tempfile::TempDir,
}

impl Served {
    async fn start(token: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lake = Lake::open("lake", folder.path(), &S3Settings::default()).unwrap();
        let registry = Arc::new(EmbeddedRegistry::open(Arc::clone(lake.store()) as _, lake.path("_schemas")));
        let options = Options { schemas: Some(Arc::clone(&registry)), ..options(token) };
        let server = Server::bind(options, Arc::new(Shop), Arc::new(Metrics::default())).await.unwrap();
        let address = server.address();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(server.serve(stop.clone()));
        Self { address, registry, stop, serving, _folder: folder }
    }

    fn url(&self) -> String {
        format!("http://{}/registry", self.address)
    }

    /// Sends one request with a body of the usual type; gives the status and the answer's JSON.
    async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let kind = "Content-Type: application/vnd.schemaregistry.v1+json\r\n";
        let (status, text) = self.send(method, path, kind, &body).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.ask("GET", path, Value::Null).await
    }

    /// The code of a failure; its first digits are the status.
    async fn code(&self, method: &str, path: &str, body: Value) -> u64 {
        let (status, answer) = self.ask(method, path, body).await;
        let code = answer["error_code"].as_u64().unwrap_or_else(|| panic!("{method} {path}: {status} {answer}"));
        assert!(code.to_string().starts_with(&status.to_string()), "{status} {code}");
        assert!(answer["message"].as_str().is_some_and(|message| !message.is_empty()), "{answer}");
        code
    }

    async fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!(
            "{method} /registry{path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // A body that is too long is not read to its end.
        let _cut = stream.write_all(body.as_bytes()).await;
        let mut answer = Vec::new();
        let _cut = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    async fn register(&self, subject: &str, schema: &str) -> i64 {
        let (status, answer) =
            self.ask("POST", &format!("/subjects/{subject}/versions"), json!({ "schema": schema })).await;
        assert_eq!(status, 200, "{answer}");
        answer["id"].as_i64().unwrap()
    }

    async fn end(self) {
        self.stop.cancel();
        self.serving.await.unwrap().unwrap();
    }
}

fn schema(text: &str) -> Value {
    json!({ "schema": text })
}

#[tokio::test]
async fn the_contract_holds_through_our_own_client() {
    let served = Served::start("").await;
    let client = ConfluentRegistry::open(&served.url(), None).unwrap();
    registry_contract(&client).await;
    registry_contract(&ConfluentRegistry::open(&format!("{}/", served.url()), None).unwrap()).await;
    // Both see the same.
    for subject in served.registry.subjects().await.unwrap() {
        assert_eq!(client.versions(&subject).await.unwrap(), served.registry.versions(&subject).await.unwrap());
    }
    served.end().await;
}

#[tokio::test]
async fn a_token_is_the_password_of_a_registry_client() {
    let served = Served::start("s3cret").await;
    let login = |password: &str| Some(("anyone".to_owned(), EtlSecret::new(password)));
    let client = ConfluentRegistry::open(&served.url(), login("s3cret")).unwrap();
    assert_eq!(client.register("a", ONE, None).await.unwrap().id, 1);
    let wrong = ConfluentRegistry::open(&served.url(), login("guess")).unwrap();
    assert_eq!(wrong.subjects().await.unwrap_err().code(), "C0112");
    let (status, answer) = served.get("/subjects").await;
    assert_eq!((status, &answer["error_code"]), (401, &json!(40101)));
    assert!(!answer.to_string().contains("s3cret"));
    served.end().await;
}

#[tokio::test]
async fn what_is_registered_is_told_by_every_path() {
    let served = Served::start("").await;
    assert_eq!(served.register("a-value", ONE).await, 1);
    assert_eq!(served.register("a-value", TWO).await, 2);
    assert_eq!(served.register("b-value", &ONE.replace(',', " , ")).await, 1);

    let one = json!({ "subject": "a-value", "version": 1, "id": 1, "schemaType": "AVRO", "schema": ONE });
    let both = json!([{ "subject": "a-value", "version": 1 }, { "subject": "b-value", "version": 1 }]);
    for (path, expected) in [
        ("", json!({})),
        ("/subjects", json!(["a-value", "b-value"])),
        ("/subjects?subjectPrefix=b", json!(["b-value"])),
        ("/subjects/a-value/versions", json!([1, 2])),
        ("/subjects/a-value/versions/1", one.clone()),
        ("/subjects/a-value/versions/1/schema", json!(serde_json::from_str::<Value>(ONE).unwrap())),
        ("/subjects/a-value/versions/1/referencedby", json!([])),
        ("/schemas/types", json!(["AVRO"])),
        ("/schemas/ids/1", json!({ "schemaType": "AVRO", "schema": ONE })),
        ("/schemas/ids/1/schema", json!(serde_json::from_str::<Value>(ONE).unwrap())),
        ("/schemas/ids/1/subjects", json!(["a-value", "b-value"])),
        ("/schemas/ids/1/versions", both),
        ("/config", json!({ "compatibilityLevel": "BACKWARD" })),
        ("/config/a-value?defaultToGlobal=true", json!({ "compatibilityLevel": "BACKWARD" })),
        ("/mode", json!({ "mode": "READWRITE" })),
    ] {
        assert_eq!(served.get(path).await, (200, expected), "{path}");
    }
    for latest in ["latest", "-1"] {
        assert_eq!(served.get(&format!("/subjects/a-value/versions/{latest}")).await.1["version"], 2);
    }
    let listed = served.get("/schemas?latestOnly=true").await.1;
    let listed: Vec<_> = listed.as_array().unwrap().iter().map(|row| (&row["subject"], &row["version"])).collect();
    assert_eq!(listed, [(&json!("a-value"), &json!(2)), (&json!("b-value"), &json!(1))]);
    assert_eq!(served.ask("POST", "/subjects/a-value", schema(ONE)).await, (200, one));
    served.end().await;
}

#[tokio::test]
async fn failures_have_confluents_codes() {
    let served = Served::start("").await;
    served.register("a", ONE).await;

    for (code, method, path, body) in [
        (40401, "GET", "/subjects/no/versions", Value::Null),
        (40401, "GET", "/subjects/no/versions/1", Value::Null),
        (40401, "POST", "/subjects/no", schema(ONE)),
        (40401, "DELETE", "/subjects/no", Value::Null),
        (40401, "DELETE", "/subjects/no/versions/1", Value::Null),
        (40401, "POST", "/compatibility/subjects/no/versions/latest", schema(ONE)),
        (40402, "GET", "/subjects/a/versions/7", Value::Null),
        (40402, "DELETE", "/subjects/a/versions/7", Value::Null),
        (40402, "POST", "/compatibility/subjects/a/versions/7", schema(ONE)),
        (40403, "GET", "/schemas/ids/77", Value::Null),
        (40403, "POST", "/subjects/a", schema(TWO)),
        (40408, "GET", "/config/a", Value::Null),
        (40409, "GET", "/mode/a", Value::Null),
        (409, "POST", "/subjects/a/versions", schema(BAD)),
        (42201, "POST", "/subjects/a/versions", schema("{")),
        (42201, "POST", "/subjects/a/versions", json!({})),
        (42201, "POST", "/subjects/a/versions", json!({ "schema": "{}", "schemaType": "PROTOBUF" })),
        (42201, "POST", "/subjects/a/versions", json!({ "schema": ONE, "ruleSet": { "domainRules": [] } })),
        (
            42201,
            "POST",
            "/subjects/a/versions",
            json!({ "schema": ONE, "references": [{ "name": "X", "subject": "x", "version": 1 }] }),
        ),
        (422, "POST", "/subjects/a/versions", json!([])),
        (42202, "GET", "/subjects/a/versions/first", Value::Null),
        (42202, "GET", "/subjects/a/versions/0", Value::Null),
        (42203, "PUT", "/config", json!({ "compatibility": "SIDEWAYS" })),
        (42203, "PUT", "/config/a", json!({})),
        (42205, "POST", "/subjects/a/versions", json!({ "schema": ONE, "id": 9 })),
        (42205, "PUT", "/mode", json!({ "mode": "READONLY" })),
        (404, "GET", "/nothing", Value::Null),
        (405, "DELETE", "/subjects", Value::Null),
    ] {
        assert_eq!(served.code(method, path, body).await, code, "{method} {path}");
    }
    let (_, refused) = served.ask("POST", "/subjects/a/versions", schema(BAD)).await;
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("field `id`") && message.contains("version 1"), "{message}");
    served.end().await;
}

#[tokio::test]
async fn deleting_is_in_two_steps() {
    let served = Served::start("").await;
    for text in [ONE, TWO] {
        served.register("a", text).await;
    }
    let gone = |path: &'static str| served.ask("DELETE", path, Value::Null);

    assert_eq!(served.code("DELETE", "/subjects/a/versions/2?permanent=true", Value::Null).await, 40407);
    assert_eq!(gone("/subjects/a/versions/latest").await, (200, json!(2)));
    assert_eq!(served.code("DELETE", "/subjects/a/versions/2", Value::Null).await, 40406);
    assert_eq!(served.get("/subjects/a/versions").await.1, json!([1]));
    assert_eq!(served.get("/subjects/a/versions?deleted=true").await.1, json!([1, 2]));
    assert_eq!(served.get("/subjects/a/versions?deletedOnly=True").await.1, json!([2]));
    assert_eq!(served.code("GET", "/subjects/a/versions/2", Value::Null).await, 40402);
    assert_eq!(served.get("/subjects/a/versions/2?deleted=true").await.1["id"], 2);
    assert_eq!(served.get("/schemas/ids/2").await.0, 200, "ids go on being answered");
    assert_eq!(served.get("/schemas/ids/2/versions").await.1, json!([]));
    assert_eq!(served.code("POST", "/subjects/a", schema(TWO)).await, 40403);
    assert_eq!(served.ask("POST", "/subjects/a?deleted=true", schema(TWO)).await.1["version"], 2);

    assert_eq!(served.code("DELETE", "/subjects/a?permanent=true", Value::Null).await, 40405);
    assert_eq!(gone("/subjects/a").await, (200, json!([1])));
    assert_eq!(served.code("DELETE", "/subjects/a", Value::Null).await, 40404);
    assert_eq!(served.get("/subjects").await.1, json!([]));
    assert_eq!(served.get("/subjects?deleted=true").await.1, json!(["a"]));
    assert_eq!(served.get("/subjects?deletedOnly=true").await.1, json!(["a"]));
    assert_eq!(gone("/subjects/a?permanent=true").await, (200, json!([1, 2])));
    assert_eq!(served.get("/subjects?deleted=true").await.1, json!([]));
    assert_eq!(served.code("GET", "/schemas/ids/2", Value::Null).await, 40403);
    // The landing of records goes on all the same.
    assert!(served.registry.by_id(2).await.unwrap().is_some());
    assert_eq!(served.register("a", TWO).await, 2, "one id, one meaning");
    served.end().await;
}

#[tokio::test]
async fn levels_and_trying_out() {
    let served = Served::start("").await;
    served.register("a", TWO).await;
    let grown = TWO.replace("]}", r#",{"name":"must","type":"int"}]}"#);
    let check = "/compatibility/subjects/a/versions/latest?verbose=true";

    let (_, verdict) = served.ask("POST", check, schema(&grown)).await;
    assert_eq!(verdict["is_compatible"], false);
    assert!(verdict["messages"][0].as_str().unwrap().contains("must"), "{verdict}");
    assert_eq!(
        served.ask("PUT", "/config/a", json!({ "compatibility": "forward" })).await,
        (200, json!({ "compatibility": "FORWARD" }))
    );
    assert_eq!(served.get("/config/a").await.1, json!({ "compatibilityLevel": "FORWARD" }));
    assert_eq!(served.ask("POST", check, schema(&grown)).await.1, json!({ "is_compatible": true, "messages": [] }));
    let all = "/compatibility/subjects/a/versions";
    assert_eq!(served.ask("POST", all, schema(&grown)).await.1, json!({ "is_compatible": true }));
    assert_eq!(served.ask("POST", "/compatibility/subjects/new/versions", schema(ONE)).await.1["is_compatible"], true);
    assert_eq!(served.ask("DELETE", "/config/a", Value::Null).await.1, json!({ "compatibilityLevel": "FORWARD" }));
    assert_eq!(served.code("DELETE", "/config/a", Value::Null).await, 40401);
    served.ask("PUT", "/config", json!({ "compatibility": "NONE" })).await;
    assert_eq!(served.register("a", BAD).await, 2);
    assert_eq!(served.ask("DELETE", "/config", Value::Null).await.1, json!({ "compatibilityLevel": "NONE" }));
    assert_eq!(served.get("/config").await.1, json!({ "compatibilityLevel": "BACKWARD" }));
    served.end().await;
}

#[tokio::test]
async fn references_are_told_and_put_in_for_our_own_readers() {
    let served = Served::start("").await;
    let city = r#"{"type":"record","name":"City","namespace":"geo","fields":[{"name":"name","type":"string"}]}"#;
    let place = r#"{"type":"record","name":"Place","fields":[{"name":"city","type":"geo.City"}]}"#;
    let references = json!([{ "name": "geo.City", "subject": "city", "version": 1 }]);
    served.register("city", city).await;
    let body = json!({ "schema": place, "schemaType": "AVRO", "references": references });

    let (status, answer) = served.ask("POST", "/subjects/place/versions", body.clone()).await;

    assert_eq!((status, &answer["id"]), (200, &json!(2)), "{answer}");
    assert_eq!(served.get("/schemas/ids/2").await.1, body);
    let resolved = served.get("/schemas/ids/2?format=resolved").await.1["schema"].clone();
    assert!(resolved.as_str().unwrap().contains("\"name\":\"name\""), "{resolved}");
    assert_eq!(served.ask("POST", "/subjects/place", body.clone()).await.1["version"], 1);
    assert_eq!(served.get("/subjects/city/versions/1/referencedby").await.1, json!([2]));
    assert_eq!(served.code("DELETE", "/subjects/city", Value::Null).await, 42206);
    // A client of ours elsewhere resolves what it is told to what the store itself reads.
    let client = ConfluentRegistry::open(&served.url(), None).unwrap();
    let told = client.by_id(2).await.unwrap().unwrap();
    assert_eq!(told, served.registry.by_id(2).await.unwrap().unwrap());
    assert_eq!(client.latest("place").await.unwrap().unwrap().schema, told);
    let draft: Draft = serde_json::from_value::<Value>(body)
        .map(|body| Draft {
            schema: body["schema"].as_str().unwrap().to_owned(),
            references: serde_json::from_value(body["references"].clone()).unwrap(),
        })
        .unwrap();
    assert_eq!(served.registry.add("place", &draft, None).await.unwrap().id, 2);
    served.end().await;
}

/// A page elsewhere can make a browser send such requests here.
#[tokio::test]
async fn what_a_foreign_page_could_send_is_refused() {
    let served = Served::start("").await;
    let body = schema(ONE).to_string();
    for kind in ["", "Content-Type: text/plain\r\n", "Content-Type: application/x-www-form-urlencoded\r\n"] {
        assert_eq!(served.send("POST", "/subjects/a/versions", kind, &body).await.0, 415, "{kind}");
    }
    assert_eq!(served.get("/subjects").await.1, json!([]));
    let json = "Content-Type: application/json; charset=utf-8\r\n";
    assert_eq!(served.send("POST", "/subjects/a/versions", json, &body).await.0, 200);
    served.end().await;
}

#[tokio::test]
async fn bodies_are_bounded_but_hold_any_schema() {
    let served = Served::start("").await;
    let doc = |length: usize| ONE.replace("\"R\",", &format!("\"R\",\"doc\":\"{}\",", "\\\"".repeat(length / 2)));

    served.register("a", &doc(1 << 19)).await;

    assert_eq!(served.code("POST", "/subjects/a/versions", schema(&doc(2 << 20))).await, 413);
    assert_eq!(served.code("POST", "/subjects/a/versions", schema(&doc((1 << 20) + 2))).await, 42201);
    served.end().await;
}

#[tokio::test]
async fn a_project_with_another_registry_says_so() {
    let server = Server::bind(options(""), Arc::new(Shop), Arc::new(Metrics::default())).await.unwrap();
    let url = format!("http://{}/registry", server.address());
    let stop = CancellationToken::new();
    let serving = tokio::spawn(server.serve(stop.clone()));

    let error = ConfluentRegistry::open(&url, None).unwrap().subjects().await.unwrap_err();

    assert_eq!(error.code(), "C0113");
    stop.cancel();
    serving.await.unwrap().unwrap();
}
