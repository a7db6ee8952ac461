//! Who may ask: with a token, whoever presents it; without one, callers on this machine that name it as such.
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use subtle::ConstantTimeEq as _;

use super::registry;
use crate::settings::Secret;

/// The rule of a server.
pub(super) struct Guard {
    token: Secret,
}

impl Guard {
    pub(super) fn new(token: Secret) -> Self {
        Self { token }
    }

    /// Whether a request with these headers may pass.
    fn admits(&self, headers: &HeaderMap) -> Result<(), StatusCode> {
        if self.token.is_empty() {
            // A web page elsewhere can have its own name resolve to 127.0.0.1 and read us through the browser
            // (DNS rebinding); its requests carry that name.
            return if local_host(headers) { Ok(()) } else { Err(StatusCode::FORBIDDEN) };
        }
        let presented = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(presented);
        match presented {
            Some(token) if bool::from(token.as_bytes().ct_eq(self.token.expose().as_bytes())) => Ok(()),
            _ => Err(StatusCode::UNAUTHORIZED),
        }
    }
}

/// The token in an `Authorization` header: a bearer's, or the password a browser asked for (any user name).
fn presented(value: &str) -> Option<String> {
    let (scheme, rest) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let pair = String::from_utf8(BASE64_STANDARD.decode(rest.trim()).ok()?).ok()?;
        return pair.split_once(':').map(|(_, password)| password.to_owned());
    }
    None
}

fn local_host(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Lets a request pass or answers for it.
pub(super) async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let Err(status) = guard.admits(request.headers()) else { return next.run(request).await };
    let why = if status == StatusCode::UNAUTHORIZED {
        "present the token of `server.token`: as a bearer token, or as the password\n"
    } else {
        "ask for localhost or 127.0.0.1, or set `server.token`\n"
    };
    let mut response = if request.uri().path().starts_with(registry::PATH) {
        registry::denied(status, why)
    } else {
        (status, why).into_response()
    };
    if status == StatusCode::UNAUTHORIZED {
        let ask = HeaderValue::from_static("Basic realm=\"tidemill\", charset=\"UTF-8\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, ask);
    }
    response
}
