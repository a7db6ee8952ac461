//! Getting in: settings, TLS, and what a failed log-in means.
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::{Client, Config, Error, Socket};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use super::{Connection, SINK, SinkError};
use crate::error::chain;

const PATIENCE: Duration = Duration::from_secs(10);

/// When the connection is encrypted. A certificate is always checked, against the host's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tls {
    /// If the server offers it; never on this machine, where packages install certificates that nobody signed.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Always; a server that does not offer it is refused.
    Require,
}

/// Where the database is and how to get in.
#[derive(Clone)]
pub struct PostgresSettings {
    config: Config,
    tls: Tls,
    ca: Option<PathBuf>,
    /// The schema of tables that name none, and of the ledger.
    pub schema: String,
}

impl fmt::Debug for PostgresSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSettings")
            .field("address", &self.address())
            .field("tls", &self.tls)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

impl PostgresSettings {
    /// Reads a connection: its location is `postgres://user@host:port/database`, its options are `tls` (`auto`, `off`,
    /// `require`) and `ca` (a PEM file of certificates to trust besides the public ones).
    ///
    /// # Errors
    /// [`SinkError::Settings`]; the location is never part of it.
    pub fn from_connection(connection: &Connection) -> Result<Self, SinkError> {
        let wrong = |reason: String| SinkError::Settings { sink: SINK, reason };
        let location = connection.location.expose();
        if location.trim().is_empty() {
            return Err(wrong("the URL is empty; it looks like `postgres://user@host:5432/database`".to_owned()));
        }
        let mut config = Config::from_str(location)
            .map_err(|cause| wrong(format!("the URL cannot be read: {}", chain(&cause).unwrap_or_default())))?;
        if let Some(password) = &connection.password {
            config.password(password.expose());
        }
        config.connect_timeout(PATIENCE);
        if config.get_application_name().is_none() {
            config.application_name("tidemill");
        }
        if config.get_hosts().is_empty() {
            return Err(wrong("the URL names no host".to_owned()));
        }
        // What the URL says of TLS holds unless the option says more.
        let mut tls = match config.get_ssl_mode() {
            SslMode::Disable => Tls::Off,
            SslMode::Require => Tls::Require,
            _ => Tls::Auto,
        };
        let mut ca = None;
        for (name, value) in &connection.options {
            match (name.as_str(), value.as_str()) {
                ("tls", "auto") => tls = Tls::Auto,
                ("tls", "off") => tls = Tls::Off,
                ("tls", "require") => tls = Tls::Require,
                ("ca", path) => ca = Some(PathBuf::from(path)),
                _ => {
                    return Err(wrong(format!("`{name}`: known are `tls` (auto, off, require) and `ca` (a PEM file)")));
                }
            }
        }
        Ok(Self { config, tls, ca, schema: connection.schema.clone() })
    }

    /// The address as a person knows it, without user or password.
    fn address(&self) -> String {
        let ports = self.config.get_ports();
        let hosts = self.config.get_hosts().iter().enumerate().map(|(at, host)| {
            let port = ports.get(at).or(ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                #[cfg(unix)]
                Host::Unix(path) => path.display().to_string(),
            }
        });
        hosts.collect::<Vec<_>>().join(", ")
    }

    /// Whether every host is this machine.
    fn local(&self) -> bool {
        self.config.get_hosts().iter().all(|host| match host {
            Host::Tcp(name) => name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
            #[cfg(unix)]
            Host::Unix(_) => true,
        })
    }

    /// Connects; the connection is driven by a task of its own until the client is dropped.
    pub(super) async fn connect(&self) -> Result<Client, SinkError> {
        let mut config = self.config.clone();
        config.ssl_mode(match self.tls {
            Tls::Require => SslMode::Require,
            Tls::Auto if !self.local() => SslMode::Prefer,
            Tls::Auto | Tls::Off => SslMode::Disable,
        });
        let tls = self.rustls()?;
        let (client, connection) = tokio::time::timeout(PATIENCE * 2, config.connect(tls))
            .await
            .map_err(|_| self.unreachable("no answer came within 20 seconds".to_owned()))?
            .map_err(|cause| self.refused(&cause))?;
        drop(tokio::spawn(async move {
            if let Err(cause) = connection.await {
                tracing::debug!(%cause, "the Postgres connection ended");
            }
        }));
        Ok(client)
    }

    fn rustls(&self) -> Result<MakeRustls, SinkError> {
        let wrong = |reason: String| SinkError::Settings { sink: SINK, reason };
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(path) = &self.ca {
            let unreadable = |cause: &dyn fmt::Display| wrong(format!("`ca` file `{}`: {cause}", path.display()));
            for certificate in CertificateDer::pem_file_iter(path).map_err(|cause| unreadable(&cause))? {
                let certificate = certificate.map_err(|cause| unreadable(&cause))?;
                roots.add(certificate).map_err(|cause| unreadable(&cause))?;
            }
        }
        // The provider is named: two are compiled in, and rustls would not choose.
        let config = ClientConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|cause| wrong(cause.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(MakeRustls(TlsConnector::from(Arc::new(config))))
    }

    fn unreachable(&self, reason: String) -> SinkError {
        let fix = if reason.contains("lookup") || reason.contains("resolve") {
            "check the host's name in the URL"
        } else if reason.contains("TLS") || reason.contains("certificate") {
            "name the authority that signed the server's certificate with `ca`, or set `tls` to what the server offers"
        } else {
            "check host and port, and that the server runs and listens there"
        };
        SinkError::Unreachable { sink: SINK, address: self.address(), reason, fix: fix.to_owned() }
    }

    /// What a failed connect means to a person.
    fn refused(&self, cause: &Error) -> SinkError {
        let login = |reason: String| SinkError::Login {
            sink: SINK,
            address: self.address(),
            user: self.config.get_user().unwrap_or("the user of this process").to_owned(),
            reason,
        };
        let text = match chain(cause) {
            Some(causes) => format!("{cause}: {causes}"),
            None => cause.to_string(),
        };
        match cause.as_db_error() {
            Some(db) if db.code().code().starts_with("28") || matches!(db.code().code(), "3D000" | "42501") => {
                login(format!("{} (SQLSTATE {})", db.message(), db.code().code()))
            }
            Some(db) => self.unreachable(format!("{} (SQLSTATE {})", db.message(), db.code().code())),
            None if text.contains("password missing") => {
                login("the server asks for a password and none is set".to_owned())
            }
            None if text.contains("authentication error") => login(text),
            None => self.unreachable(text),
        }
    }
}

/// Makes TLS connections for tokio-postgres; all of the bridge that is needed.
#[derive(Clone)]
struct MakeRustls(TlsConnector);

struct ConnectRustls(TlsConnector, ServerName<'static>);

/// A stream that tokio-postgres may ask for its channel binding; it has none, so plain SCRAM is used inside TLS.
struct Stream(tokio_rustls::client::TlsStream<Socket>);

impl MakeTlsConnect<Socket> for MakeRustls {
    type Stream = Stream;
    type TlsConnect = ConnectRustls;
    type Error = std::io::Error;

    fn make_tls_connect(&mut self, host: &str) -> Result<ConnectRustls, Self::Error> {
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        Ok(ConnectRustls(self.0.clone(), name))
    }
}

impl TlsConnect<Socket> for ConnectRustls {
    type Stream = Stream;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, Self::Error>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move { Ok(Stream(self.0.connect(self.1, socket).await?)) })
    }
}

impl TlsStream for Stream {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
