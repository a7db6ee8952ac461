//! What stands between the process and a service that speaks HTTP: it passes requests on, and, by a seed, refuses them, is
//! slow, loses the answer to what was done, or cuts it short.
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// How likely what is; clear by default.
#[derive(Clone, Copy, Default)]
pub(super) struct Weather {
    /// 503, and the request is not passed on.
    pub(super) refused: f64,
    /// An answer that takes up to a second more.
    pub(super) slow: f64,
    /// Passed on, and the connection is cut instead of an answer.
    pub(super) lost: f64,
    /// Passed on, and half of the answer comes.
    pub(super) cut: f64,
    /// No answer to anything, and nothing is passed on, for as long as this is so.
    pub(super) silent: bool,
    /// The next put of a version is passed on, and the answer never comes.
    pub(super) hang: bool,
}

pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    state: Arc<State>,
}

struct State {
    target: String,
    weather: Mutex<Weather>,
    random: Mutex<StdRng>,
    done: Mutex<BTreeMap<&'static str, u64>>,
}

impl Proxy {
    /// In front of `target`, host:port. It serves until the test program ends.
    pub(super) fn new(target: &str, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = Arc::new(State {
            target: target.to_owned(),
            weather: Mutex::default(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            done: Mutex::default(),
        });
        let proxy = Self { address: listener.local_addr().unwrap(), state: Arc::clone(&state) };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                // A client that was killed leaves an error here, which is nobody's.
                std::thread::spawn(move || drop(state.serve(client)));
            }
        });
        proxy
    }

    pub(super) fn weather(&self, weather: Weather) {
        *self.state.weather.lock().unwrap() = weather;
    }

    /// What was done to requests, and how often.
    pub(super) fn done(&self) -> BTreeMap<&'static str, u64> {
        self.state.done.lock().unwrap().clone()
    }
}

impl State {
    fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        let Some(request) = read_request(&mut client)? else { return Ok(()) };
        while self.weather.lock().unwrap().silent {
            std::thread::sleep(Duration::from_millis(20));
        }
        let fate = self.fate(&request);
        *self.done.lock().unwrap().entry(fate).or_default() += 1;
        if fate == "refused" {
            return client.write_all(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        let mut service = TcpStream::connect(&self.target)?;
        service.write_all(&request)?;
        let mut answer = Vec::new();
        service.read_to_end(&mut answer)?;
        match fate {
            "lost" => return client.shutdown(Shutdown::Both),
            "hung" => {
                // Until the client gives up.
                client.set_read_timeout(Some(Duration::from_secs(90)))?;
                return client.read(&mut [0]).map(drop);
            }
            "slow" => {
                let more = self.random.lock().unwrap().random_range(100..1000);
                std::thread::sleep(Duration::from_millis(more));
            }
            "cut" => answer.truncate(answer.len() / 2),
            _ => {}
        }
        client.write_all(&answer)?;
        client.shutdown(Shutdown::Both)
    }

    fn fate(&self, request: &[u8]) -> &'static str {
        let mut weather = self.weather.lock().unwrap();
        let head = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let head = String::from_utf8_lossy(head);
        if weather.hang && head.starts_with("PUT") && head.contains("_delta_log") {
            weather.hang = false;
            return "hung";
        }
        let mut drawn = self.random.lock().unwrap().random::<f64>();
        let chances =
            [("refused", weather.refused), ("slow", weather.slow), ("lost", weather.lost), ("cut", weather.cut)];
        for (fate, chance) in chances {
            if drawn < chance {
                return fate;
            }
            drawn -= chance;
        }
        "passed"
    }
}

/// One request, changed to ask for a connection of its own; `None` if the client has gone.
fn read_request(client: &mut TcpStream) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 << 10];
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        match client.read(&mut buffer)? {
            0 => return Ok(None),
            read => bytes.extend(&buffer[..read]),
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let header = |line: &str, name: &str| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    let length = text.lines().find(|line| header(line, "content-length:"));
    let length = length.and_then(|line| line.split_once(':')?.1.trim().parse().ok()).unwrap_or(0);
    let mut body = bytes.split_off(head + 4);
    while body.len() < length {
        match client.read(&mut buffer)? {
            0 => return Ok(None),
            read => body.extend(&buffer[..read]),
        }
    }
    let kept = text.lines().filter(|line| !header(line, "connection:"));
    let mut request = kept.collect::<Vec<_>>().join("\r\n").into_bytes();
    request.extend(b"\r\nConnection: close\r\n\r\n");
    request.extend(body);
    Ok(Some(request))
}
