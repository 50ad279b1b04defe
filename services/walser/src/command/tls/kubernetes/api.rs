//! Secrets through the API server of Kubernetes, as the service account of the pod that this runs in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tower_service::Service as _;
use walser_tls::{ClientTls, ClientTlsFiles, Connector};

use super::{NAMES, Secret, Secrets};
use crate::error::{CliError, UNAVAILABLE};

/// Where a pod finds what its service account has.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Largest answer that is read, in bytes: a Secret has at most 1 MiB, a third more as base64.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// The API server, as a pod sees it.
#[derive(Debug)]
pub(super) struct ApiServer {
    /// HOST:PORT.
    address: String,
    tls: ClientTls,
    token: String,
    namespace: String,
    /// Labels of what is made, as pairs.
    labels: Vec<(String, String)>,
}

// === impl ApiServer ===

impl ApiServer {
    /// The API server of the cluster that this process is a pod of.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn of_pod(labels: Vec<(String, String)>) -> Result<Self, CliError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let address = variable("KUBERNETES_SERVICE_HOST").zip(variable("KUBERNETES_SERVICE_PORT"));
        let (host, port) = address.ok_or_else(|| {
            let error = CliError::failed("this is no pod of Kubernetes: KUBERNETES_SERVICE_HOST is not set");
            error.with_help("it runs in a job of the chart; elsewhere `walser tls dev DIR` makes files")
        })?;
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        Self::with_account(format!("{host}:{port}"), Path::new(ACCOUNT), labels)
    }

    fn with_account(address: String, account: &Path, labels: Vec<(String, String)>) -> Result<Self, CliError> {
        let read = |file: &str| {
            let path: PathBuf = account.join(file);
            let text = std::fs::read_to_string(&path);
            text.map(|text| text.trim().to_owned())
                .map_err(|error| CliError::failed(format!("{}: {error}", path.display())))
        };
        let files = ClientTlsFiles { ca: Some(account.join("ca.crt")), ..ClientTlsFiles::default() };
        let tls = ClientTls::load(&files).map_err(|error| CliError::failed(error.to_string()))?;
        Ok(Self { address, tls, token: read("token")?, namespace: read("namespace")?, labels })
    }

    async fn call(&self, method: Method, name: &str, body: Option<Value>) -> Result<(StatusCode, Value), CliError> {
        let failed = |why: String| {
            let error = CliError::failed(format!("the API server of Kubernetes at {}: {why}", self.address));
            error.with_code(UNAVAILABLE)
        };
        let answered = tokio::time::timeout(ANSWER_MAX, self.answer(method, name, body)).await;
        let answered = answered.map_err(|_elapsed| failed("no answer in time".to_owned()))?;
        answered.map_err(|error| failed(walser_tls::in_words(&*error).unwrap_or_else(|| error.to_string())))
    }

    async fn answer(
        &self,
        method: Method,
        name: &str,
        body: Option<Value>,
    ) -> Result<(StatusCode, Value), Box<dyn std::error::Error + Send + Sync>> {
        let path = format!("https://{}/api/v1/namespaces/{}/secrets{name}", self.address, self.namespace);
        let io: TokioIo<_> = Connector::to_server(self.tls.clone()).call(path.parse()?).await?;
        let (mut calls, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.map(|body| body.to_string()).unwrap_or_default())))?;
        let answer = calls.send_request(request).await?;
        let status = answer.status();
        let text = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await?.to_bytes();
        connection.abort();
        Ok((status, serde_json::from_slice(&text).unwrap_or_default()))
    }

    /// A Secret as the API server takes it.
    fn body(&self, secret: &Secret) -> Value {
        let new =
            json!({ "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": { "name": secret.name } });
        let mut object = if secret.object.is_object() { secret.object.clone() } else { new };
        object["metadata"]["annotations"][NAMES] = json!(secret.names);
        for (name, value) in &self.labels {
            object["metadata"]["labels"][name] = json!(value);
        }
        object["data"] = Value::Null;
        object["stringData"] = json!(secret.data);
        object
    }

    fn refused(&self, what: &str, status: StatusCode, answer: &Value) -> CliError {
        let why = answer["message"].as_str().unwrap_or("without a reason");
        let error = CliError::failed(format!("the API server refuses to {what}: {why} ({status})"));
        match status {
            StatusCode::FORBIDDEN => error.with_help(format!(
                "the service account needs the verbs get, create and update on Secrets in namespace {}",
                self.namespace
            )),
            StatusCode::CONFLICT => error.with_help("another has changed it at the same time: run it again"),
            _ => error,
        }
    }
}

impl Secrets for ApiServer {
    async fn get(&self, name: &str) -> Result<Option<Secret>, CliError> {
        match self.call(Method::GET, &format!("/{name}"), None).await? {
            (StatusCode::OK, found) => secret_of(name, &found).map(Some),
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, answer) => Err(self.refused(&format!("show Secret {name}"), status, &answer)),
        }
    }

    async fn create(&self, secret: &Secret) -> Result<bool, CliError> {
        match self.call(Method::POST, "", Some(self.body(secret))).await? {
            (StatusCode::CREATED | StatusCode::OK, _) => Ok(true),
            (StatusCode::CONFLICT, answer) if answer["reason"] == "AlreadyExists" => Ok(false),
            (status, answer) => Err(self.refused(&format!("make Secret {}", secret.name), status, &answer)),
        }
    }

    async fn replace(&self, secret: &Secret) -> Result<(), CliError> {
        match self.call(Method::PUT, &format!("/{}", secret.name), Some(self.body(secret))).await? {
            (StatusCode::OK, _) => Ok(()),
            (status, answer) => Err(self.refused(&format!("change Secret {}", secret.name), status, &answer)),
        }
    }
}

fn secret_of(name: &str, found: &Value) -> Result<Secret, CliError> {
    let unreadable = |key: &str| CliError::failed(format!("Secret {name}: {key} is not text"));
    let mut secret = Secret {
        name: name.to_owned(),
        names: found["metadata"]["annotations"][NAMES].as_str().unwrap_or_default().to_owned(),
        object: found.clone(),
        ..Secret::default()
    };
    for (key, value) in found["data"].as_object().into_iter().flatten() {
        let bytes = STANDARD.decode(value.as_str().unwrap_or_default()).map_err(|_| unreadable(key))?;
        secret.data.insert(key.clone(), String::from_utf8(bytes).map_err(|_| unreadable(key))?);
    }
    Ok(secret)
}

#[cfg(test)]
mod tests;
