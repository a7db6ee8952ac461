use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

pub(super) struct Shop;

#[async_trait]
impl StatusView for Shop {
    async fn dags(&self) -> Result<Vec<DagStatus>> {
        Ok(vec![DagStatus {
            id: "sales".to_owned(),
            description: "<script>".to_owned(),
            triggers: vec!["cron".to_owned()],
        }])
    }
    async fn runs(&self, limit: usize) -> Result<Vec<RunStatus>> {
        let run = |n: usize| RunStatus {
            id: format!("run{n}"),
            dag: "sales".to_owned(),
            state: "failed".to_owned(),
            started_at: None,
            seconds: Some(1.25),
        };
        Ok((0..limit).map(run).collect())
    }
    async fn tables(&self) -> Result<Vec<TableStatus>> {
        Ok(vec![TableStatus {
            name: "gold.sales".to_owned(),
            version: 3,
            rows: Some(8701),
            bytes: Some(1_500_000),
            updated_at: None,
        }])
    }
}

pub(super) fn options(token: &str) -> Options {
    Options {
        name: "shop".to_owned(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        token: Secret::new(token),
        grace: Duration::from_secs(5),
        schemas: None,
    }
}

/// Serves, asks each of these (path, further header lines), stops, and returns the answers.
async fn ask(token: &str, requests: &[(&str, &str)]) -> Vec<String> {
    let server = Server::bind(options(token), Arc::new(Shop), Arc::new(Metrics::default())).await.unwrap();
    let address = server.address();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(server.serve(stop.clone()));
    let mut answers = Vec::new();
    for (path, headers) in requests {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let host = if headers.contains("Host:") { "" } else { "Host: localhost\r\n" };
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\n{host}{headers}Connection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answers.push(answer);
    }
    stop.cancel();
    serving.await.unwrap().unwrap();
    answers
}

#[tokio::test]
async fn health_metrics_and_the_page_answer() {
    let answers =
        ask("", &[("/healthz", ""), ("/metrics", ""), ("/", ""), ("/api/status", ""), ("/nothing", "")]).await;

    assert!(answers[0].starts_with("HTTP/1.1 200") && answers[0].contains("\"status\":\"ok\""), "{}", answers[0]);
    assert!(answers[1].contains("# TYPE tidemill_uptime_seconds gauge"), "{}", answers[1]);
    assert!(
        answers[2].contains("gold.sales") && answers[2].contains("8,701") && answers[2].contains("run19"),
        "{}",
        answers[2]
    );
    assert!(answers[2].contains("&lt;script&gt;") && !answers[2].contains("<script>"), "texts are escaped");
    assert!(answers[2].contains("default-src 'none'"), "{}", answers[2]);
    assert!(answers[3].contains("\"id\":\"run0\""), "{}", answers[3]);
    assert!(answers[4].starts_with("HTTP/1.1 404"), "{}", answers[4]);
}

#[tokio::test]
async fn with_a_token_only_its_holders_see_more_than_health() {
    // Ann:s3cret and Ann:wrong, as a browser sends them.
    let basic = "Authorization: Basic QW5uOnMzY3JldA==\r\n";
    let wrong = "Authorization: Basic QW5uOndyb25n\r\n";
    let bearer = "Authorization: Bearer s3cret\r\n";

    let answers = ask("s3cret", &[("/healthz", ""), ("/", ""), ("/", bearer), ("/", basic), ("/metrics", wrong)]).await;

    let codes: Vec<&str> = answers.iter().map(|answer| answer.split(' ').nth(1).unwrap()).collect();
    assert_eq!(codes, ["200", "401", "200", "200", "401"]);
}

#[tokio::test]
async fn a_foreign_name_for_this_machine_is_refused() {
    let hosts = [("/", "Host: evil.example\r\n"), ("/", "Host: [::1]:8080\r\n"), ("/", "Host: 127.0.0.1:80\r\n")];

    let codes: Vec<String> =
        ask("", &hosts).await.iter().map(|answer| answer.split(' ').nth(1).unwrap().to_owned()).collect();

    assert_eq!(codes, ["403", "200", "200"]);
}

#[tokio::test]
async fn beyond_loopback_it_needs_a_token_and_a_taken_port_says_so() {
    let world = Options { listen: SocketAddr::from(([0, 0, 0, 0], 0)), ..options("") };
    let refused = Server::bind(world, Arc::new(Shop), Arc::default()).await.err().unwrap();
    assert_eq!(refused.parts().code, "S0010");

    let first = Server::bind(options(""), Arc::new(Shop), Arc::default()).await.unwrap();
    let again = Options { listen: first.address(), ..options("") };
    let taken = Server::bind(again, Arc::new(Shop), Arc::default()).await.err().unwrap();
    assert_eq!(taken.parts().code, "S0013");
}
