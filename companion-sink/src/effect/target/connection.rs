//! Connections to the one server that takes the requests of a webhook. Those that are idle are used again.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::rt::{Read, Write};
use hyper::{HeaderMap, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use openssl::ssl::{SslConnector, SslMethod};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use crate::error::{Result, misconfigured};

/// Of an answer so much is read; a longer one costs its connection.
const ANSWER_BYTES_MAX: usize = 64 << 10;

type Sender = SendRequest<Full<Bytes>>;

/// The server, and connections to it.
pub(crate) struct Connections {
    host: String,
    port: u16,
    /// None for plain HTTP.
    tls: Option<SslConnector>,
    idle: Mutex<Vec<Sender>>,
    idle_max: usize,
}

/// What a webhook's URL says.
pub(crate) struct WebhookUrl {
    is_tls: bool,
    /// Host and port, as the header `Host` has them.
    pub(crate) authority: String,
    host: String,
    port: u16,
    /// Where on the server.
    pub(crate) path: String,
}

/// The head of an answer.
pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
}

impl WebhookUrl {
    /// Reads a URL, which is told nowhere: it may hold a secret.
    pub(crate) fn parse(url: &str) -> Result<WebhookUrl> {
        let wrong = |what: &str| {
            misconfigured(
                format!("url: {what}"),
                "Write https://host/path, or http://host:port/path, without a user.",
            )
        };
        let uri: Uri = url.parse().map_err(|_| wrong("it is no URL"))?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong("it begins neither with https:// nor with http://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("it has a user"));
        }
        let host = authority.host();
        if host.is_empty() {
            return Err(wrong("it has no host"));
        }
        Ok(WebhookUrl {
            is_tls,
            authority: authority.as_str().to_owned(),
            host: host.trim_matches(['[', ']']).to_owned(),
            port: authority
                .port_u16()
                .unwrap_or(if is_tls { 443 } else { 80 }),
            path: uri
                .path_and_query()
                .map_or("/", |path| path.as_str())
                .to_owned(),
        })
    }
}

impl Connections {
    /// Connects nowhere yet; at most `idle_max` connections are kept.
    pub(crate) fn new(url: &WebhookUrl, idle_max: usize) -> Result<Connections> {
        let connector = || {
            let connector = SslConnector::builder(SslMethod::tls());
            connector
                .map(|connector| connector.build())
                .map_err(|error| {
                    misconfigured(
                        format!("openssl: {error}"),
                        "Look at OpenSSL's configuration on this machine.",
                    )
                })
        };
        Ok(Connections {
            host: url.host.clone(),
            port: url.port,
            tls: url.is_tls.then(connector).transpose()?,
            idle: Mutex::default(),
            idle_max,
        })
    }

    /// Sends a request, over a new connection if an old one fails. Why there is no answer, in words.
    pub(crate) async fn send(
        &self,
        request: impl Fn() -> std::result::Result<Request<Full<Bytes>>, String>,
    ) -> std::result::Result<Answered, String> {
        if let Some(sender) = self.take_idle().await {
            // The server may have closed it meanwhile.
            if let Ok(answered) = self.send_over(sender, request()?).await {
                return Ok(answered);
            }
        }
        let sender = self.connect().await?;
        self.send_over(sender, request()?).await
    }

    /// Connects, to see whether somebody answers; with TLS, whether it is who it should be.
    pub(crate) async fn try_connect(&self) -> std::result::Result<(), String> {
        self.connect().await.map(drop)
    }

    async fn take_idle(&self) -> Option<Sender> {
        loop {
            let mut sender = self
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop()?;
            if sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    async fn send_over(
        &self,
        mut sender: Sender,
        request: Request<Full<Bytes>>,
    ) -> std::result::Result<Answered, String> {
        let answer: Response<Incoming> = sender.send_request(request).await.map_err(told)?;
        let (head, body) = answer.into_parts();
        // What stands in it is not of interest; a connection is free again when it is read.
        let is_read = Limited::new(body, ANSWER_BYTES_MAX).collect().await.is_ok();
        if is_read && !sender.is_closed() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < self.idle_max {
                idle.push(sender);
            }
        }
        Ok(Answered {
            status: head.status,
            headers: head.headers,
        })
    }

    async fn connect(&self) -> std::result::Result<Sender, String> {
        let stream = TcpStream::connect((self.host.as_str(), self.port));
        let stream = stream.await.map_err(|error| error.to_string())?;
        // A small request is sent at once.
        stream
            .set_nodelay(true)
            .map_err(|error| error.to_string())?;
        let Some(tls) = &self.tls else {
            return sender_over(TokioIo::new(stream)).await;
        };
        let configuration = tls.configure().map_err(|error| error.to_string())?;
        // No name is told to a server that has none, and its certificate is of the address.
        let is_address = self.host.parse::<IpAddr>().is_ok();
        let ssl = configuration.use_server_name_indication(!is_address);
        let ssl = ssl
            .into_ssl(&self.host)
            .map_err(|error| error.to_string())?;
        let mut stream = SslStream::new(ssl, stream).map_err(|error| error.to_string())?;
        let connected = std::pin::Pin::new(&mut stream).connect().await;
        connected.map_err(|error| format!("TLS: {error}"))?;
        sender_over(TokioIo::new(stream)).await
    }
}

async fn sender_over(
    stream: impl Read + Write + Send + Unpin + 'static,
) -> std::result::Result<Sender, String> {
    let (sender, connection) = handshake(stream).await.map_err(told)?;
    // Ends with the sender; what went wrong the sender is told.
    tokio::spawn(connection);
    Ok(sender)
}

fn told(error: hyper::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let url = WebhookUrl::parse("https://h.example.org/a/b?c=d").unwrap();
        assert_eq!(
            (&*url.host, url.port, &*url.path),
            ("h.example.org", 443, "/a/b?c=d")
        );
        let url = WebhookUrl::parse("http://[::1]:8080").unwrap();
        assert_eq!((&*url.host, url.port, &*url.path), ("::1", 8080, "/"));
        assert_eq!(url.authority, "[::1]:8080");
        for wrong in [
            "",
            "h/p",
            "ftp://h/",
            "https://u:p@h/",
            "https://",
            "file:///x",
        ] {
            let error = WebhookUrl::parse(wrong).err();
            assert!(
                error.is_some_and(|error| !error.message.contains("u:p")),
                "{wrong}"
            );
        }
    }
}
