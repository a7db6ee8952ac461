//! `tidemill health`: asks a running `tidemill up` for `/healthz`. Made for container health checks: no other program is needed.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Context;
use crate::failure::{Exit, Failure, Result};

/// 5 s: a server that needs longer to say that it is well is not.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn run(context: &Context) -> Result<Exit> {
    let address = reachable(context.project()?.settings.server.listen);
    let silent = |why: String| {
        Failure::new("X0005", format!("no healthy server answers at `{address}`"))
            .why(why)
            .fix("start it with `tidemill up`; if it listens elsewhere, give the same `--set server.listen=…`")
    };
    let answer = tokio::time::timeout(PATIENCE, get(address)).await;
    let answer =
        answer.map_err(|_| silent("no answer within 5 s".to_owned()))?.map_err(|error| silent(error.to_string()))?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| silent("the answer is not HTTP".to_owned()))?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(silent(head.lines().next().unwrap_or_default().to_owned()));
    }
    let health: serde_json::Value = serde_json::from_str(body).map_err(|error| silent(error.to_string()))?;
    context.report.one(&health)?;
    Ok(Exit::Done)
}

/// Whether a healthy `tidemill up` answers there.
pub(super) async fn answers(listen: SocketAddr) -> bool {
    let answer = tokio::time::timeout(PATIENCE, get(reachable(listen))).await;
    answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 ")))
}

/// An address that listens everywhere is asked on loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

async fn get(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut answer = String::new();
    // 64 KiB: whatever listens there may be something else.
    stream.take(64 << 10).read_to_string(&mut answer).await?;
    Ok(answer)
}
