//! Asking whoever owns an account: every instance answers for all.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use service::problem::Problem;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::account::Id;
use crate::owners::Owners;
use crate::partition::{not_here, not_known};

/// A request that another instance has sent on; it goes no further.
pub(crate) const SENT_ON: &str = "x-sent-on";
/// How long an owner is looked for: one that was killed has a successor sooner.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const PAUSE: Duration = Duration::from_millis(100);
const CONNECT: Duration = Duration::from_secs(1);
/// What only reads is asked again after this.
const READ: Duration = Duration::from_secs(2);
const CHANGE: Duration = Duration::from_secs(15);
const BODY_BYTES_MAX: usize = 1 << 20;

/// Why there is no answer.
enum NoAnswer {
    /// The request has not arrived.
    NotSent,
    /// It may have been done.
    NotKnown,
}

/// Does a request about one account where its owner is, here or there.
pub(crate) async fn to_owner(
    State(owners): State<Arc<Owners>>,
    Path(id): Path<String>,
    request: Request,
    next: Next,
) -> Response {
    let id = match Id::try_from(id) {
        Ok(id) => id,
        Err(wrong) => return Problem::unprocessable(wrong).into_response(),
    };
    let (parts, body) = request.into_parts();
    let body = match to_bytes(body, BODY_BYTES_MAX).await {
        Ok(body) => body,
        Err(wrong) => {
            return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, wrong.to_string()).into_response();
        }
    };
    at_owner(&owners, &id, &parts, &body, || {
        let request = Request::from_parts(parts.clone(), Body::from(body.clone()));
        next.clone().run(request)
    })
    .await
}

/// Does `here` where the owner of an account is this instance, else sends the request on. While it has no owner, it waits.
pub(crate) async fn at_owner<F: Future<Output = Response>>(
    owners: &Arc<Owners>,
    account: &Id,
    parts: &Parts,
    body: &Bytes,
    here: impl Fn() -> F,
) -> Response {
    let partition = owners.topics.partition_of(account.as_str());
    let is_sent_on = parts.headers.contains_key(SENT_ON);
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = match owners.of(partition) {
            Some(owner) if owner != owners.me && !is_sent_on => {
                send(&owner, parts, body.clone()).await
            }
            _ => here().await,
        };
        if answer.status() != StatusCode::MISDIRECTED_REQUEST || is_sent_on {
            return answer;
        }
        if Instant::now() > until {
            return no_owner(partition).into_response();
        }
        sleep(PAUSE).await;
        owners.refresh().await;
    }
}

/// 503: nobody owns a partition. Nothing was done.
pub(crate) fn no_owner(partition: i32) -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("nobody serves partition {partition} now; nothing was done, try again later"),
    )
}

/// What the instance at this address answers; 421 when it is to be asked again, or another one.
pub(crate) async fn send(address: &str, parts: &Parts, body: Bytes) -> Response {
    let only_reads = parts.method.is_safe();
    let patience = if only_reads { READ } else { CHANGE };
    match timeout(patience, exchange(address, parts, body)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(NoAnswer::NotSent)) => not_here().into_response(),
        Ok(Err(NoAnswer::NotKnown)) | Err(_) if only_reads => not_here().into_response(),
        Ok(Err(NoAnswer::NotKnown)) | Err(_) => not_known().into_response(),
    }
}

async fn exchange(address: &str, parts: &Parts, body: Bytes) -> Result<Response, NoAnswer> {
    let not_sent = |_| NoAnswer::NotSent;
    let stream = timeout(CONNECT, TcpStream::connect(address)).await;
    let stream = stream.map_err(not_sent)?.map_err(|_| NoAnswer::NotSent)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|_| NoAnswer::NotSent)?;
    // Ends with the answer.
    tokio::spawn(connection);
    let mut parts = parts.clone();
    let headers = &mut parts.headers;
    headers.insert(SENT_ON, HeaderValue::from_static("1"));
    headers.remove(header::TRANSFER_ENCODING);
    headers.insert(header::CONTENT_LENGTH, body.len().into());
    if !headers.contains_key(header::HOST) {
        headers.insert(header::HOST, HeaderValue::from_static("peer"));
    }
    let request = Request::from_parts(parts, Full::new(body));
    let answer = sender.send_request(request).await;
    let answer = answer.map_err(|_| NoAnswer::NotKnown)?;
    let (mut parts, body) = answer.into_parts();
    parts.headers.remove(header::TRANSFER_ENCODING);
    let body = body.collect().await.map_err(|_| NoAnswer::NotKnown)?;
    Ok(Response::from_parts(parts, Body::from(body.to_bytes())))
}
