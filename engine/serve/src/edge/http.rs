//! The listener: connections and their limits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use domain::{Fault, FaultKind};
use http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::answer::ApiError;
use super::routes;
use crate::edge::app::App;

/// Largest request body, unless configured otherwise.
pub use proto::limit::BODY_BYTES_MAX;

/// A request's head and its body must each have come within this time.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// After an error of `accept`, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Binds the listener; port 0 takes any free one.
pub async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Fault> {
    let fault = |error| {
        let what = format!("cannot listen on {address}");
        Fault::new(FaultKind::Address, what, "end what listens there or choose another port; 0 takes any free one").because(error)
    };
    let listener = TcpListener::bind(address).await.map_err(fault)?;
    let bound = listener.local_addr().map_err(fault)?;
    Ok((listener, bound))
}

/// Accepts until `app.ending`, then lets open connections finish what they are at.
pub async fn serve(app: Arc<App>, listener: TcpListener, connections_max: usize) {
    let places = Arc::new(Semaphore::new(connections_max));
    let routes = routes::router(Arc::clone(&app));
    loop {
        // Beyond the maximum, connections wait in the kernel's backlog.
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = app.ending.cancelled() => return,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = app.ending.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let (routes, ending) = (routes.clone(), app.ending.clone());
                tokio::spawn(async move {
                    connection(stream, routes, ending).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, routes: Router, ending: CancellationToken) {
    // A token is a small packet that must not wait for the next.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(READ_TIMEOUT);
    builder.http2().timer(TokioTimer::new());
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = ending.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "connection ended");
    }
}

/// A whole request body of at most `bytes_max`.
pub async fn read_body(body: Body, bytes_max: usize) -> Result<Bytes, ApiError> {
    let read = tokio::time::timeout(READ_TIMEOUT, Limited::new(body, bytes_max).collect()).await;
    match read {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let message = format!("The body is larger than {bytes_max} bytes.");
            Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message))
        }
        Ok(Err(error)) => Err(ApiError::new(StatusCode::BAD_REQUEST, format!("The body could not be read: {error}."))),
        Err(_) => {
            let message = format!("The body did not come within {} s.", READ_TIMEOUT.as_secs());
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message))
        }
    }
}
