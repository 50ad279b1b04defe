//! The admin port of a process, as this program calls it: small answers in plain HTTP.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::http1::GRPC_ADDRESS;

/// Most bytes of an answer: the metrics of a large cluster are the longest.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// How long one may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// What an admin port answers.
#[derive(Debug)]
pub(crate) struct AdminAnswer {
    status: StatusCode,
    /// The gRPC port of the process.
    pub(crate) grpc: Option<String>,
    pub(crate) text: String,
}

/// Asks for a path. What keeps the answer away is an error, in words.
pub(crate) async fn get(address: &str, path: &str) -> Result<AdminAnswer, String> {
    call(address, Method::GET, path, String::new()).await
}

/// Gives a path something.
pub(crate) async fn put(address: &str, path: &str, body: String) -> Result<AdminAnswer, String> {
    call(address, Method::PUT, path, body).await
}

async fn call(address: &str, method: Method, path: &str, body: String) -> Result<AdminAnswer, String> {
    let request = Request::builder().method(method).uri(path).header(header::HOST, address);
    let request = request.body(Full::<Bytes>::from(body)).map_err(|error| format!("{address}{path}: {error}"))?;
    let answered = async {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let grpc = answer.headers().get(GRPC_ADDRESS).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        connection.abort();
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        Ok(AdminAnswer { status, grpc, text: String::from_utf8_lossy(&body).into_owned() })
    };
    match tokio::time::timeout(ANSWER_MAX, answered).await {
        Ok(answered) => answered.map_err(|error: String| format!("{address}: {error}")),
        Err(_elapsed) => Err(format!("{address}: no answer within {} s", ANSWER_MAX.as_secs())),
    }
}

// === impl AdminAnswer ===

impl AdminAnswer {
    pub(crate) fn is_success(&self) -> bool {
        self.status.is_success()
    }

    /// Why it is none.
    pub(crate) fn refusal(&self) -> String {
        match self.text.trim() {
            "" => format!("HTTP status {}: an earlier version may run there", self.status),
            text => text.to_owned(),
        }
    }
}
