//! The connections of the server: so many at once, and none that only waits.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::http::problem::Problem;

const CONNECTIONS_MAX: usize = 64;
/// For a request's headers, and between two requests.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);
/// For a request's body and its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// Longer than any answer: a client that reads nothing goes.
const CONNECTION_MAX: Duration = Duration::from_secs(600);
/// After a failed accept, such as with too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop` says so; what is under way then ends with it.
pub(crate) async fn serve(listener: TcpListener, router: Router, mut stop: watch::Receiver<bool>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let permit = Arc::clone(&free).acquire_owned();
        let accepted = async {
            let permit = permit.await;
            (listener.accept().await, permit)
        };
        let accepted = tokio::select! {
            // A sender that is gone means the end as well.
            _ = stop.wait_for(|stop| *stop) => return,
            accepted = accepted => accepted,
        };
        match accepted {
            (Ok((stream, client)), Ok(permit)) => {
                let router = router.clone();
                connections.spawn(async move {
                    answer(stream, client, router).await;
                    drop(permit);
                });
            }
            (Ok(_), Err(_)) => return,
            (Err(error), _) => {
                tracing::debug!(%error, "http: no connection");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, client: SocketAddr, router: Router) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(client));
        let answered = router.call(request);
        async move {
            let answered: Result<Response<Body>, Infallible> =
                match timeout(ANSWER_WITHIN, answered).await {
                    Ok(answered) => answered,
                    Err(_) => Ok(Problem::too_slow().into_response()),
                };
            answered
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = timeout(CONNECTION_MAX, served).await {
        tracing::debug!(%error, "http: a connection ended");
    }
}
