use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::net::TcpListener;
use walser_tls::{ProcessTls, TlsFiles};

use super::*;
use crate::command::tls::make_development;

/// An API server of a test: keeps Secrets as it gets them, and gives them back as Kubernetes does.
#[derive(Debug, Default, Clone)]
struct Fake(Arc<Mutex<BTreeMap<String, Value>>>);

impl Fake {
    async fn answer(self, request: Request<Incoming>) -> Result<http::Response<Full<Bytes>>, Infallible> {
        let (parts, body) = request.into_parts();
        let body: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap_or_default();
        let name = parts.uri.path().strip_prefix("/api/v1/namespaces/here/secrets").unwrap().trim_matches('/');
        let mut kept = self.0.lock().unwrap();
        let (status, answer) = match parts.method {
            _ if parts.headers[header::AUTHORIZATION] != "Bearer secret" => (StatusCode::FORBIDDEN, json!({})),
            Method::GET => match kept.get(name) {
                Some(found) => (StatusCode::OK, found.clone()),
                None => (StatusCode::NOT_FOUND, json!({})),
            },
            Method::POST if kept.contains_key(body["metadata"]["name"].as_str().unwrap()) => {
                (StatusCode::CONFLICT, json!({ "reason": "AlreadyExists" }))
            }
            Method::PUT if kept[name]["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] => {
                (StatusCode::CONFLICT, json!({ "message": "the object has been modified" }))
            }
            _ => {
                let mut stored = body.clone();
                let encoded = body["stringData"].as_object().unwrap().iter();
                let encoded =
                    encoded.map(|(key, value)| (key.clone(), json!(STANDARD.encode(value.as_str().unwrap()))));
                stored["data"] = encoded.collect::<serde_json::Map<_, _>>().into();
                stored["metadata"]["resourceVersion"] = json!(format!("{}", kept.len() + 1));
                kept.insert(body["metadata"]["name"].as_str().unwrap().to_owned(), stored);
                (StatusCode::CREATED, json!({}))
            }
        };
        let status = if parts.method == Method::PUT && status == StatusCode::CREATED { StatusCode::OK } else { status };
        let answer = Full::new(Bytes::from(answer.to_string()));
        Ok(http::Response::builder().status(status).body(answer).unwrap())
    }

    /// Serves over TLS; gives back the address.
    async fn serve(&self, dir: &Path) -> String {
        let (cert, key) = (dir.join("server.crt"), dir.join("server.key"));
        let tls = ProcessTls::for_clients(TlsFiles { cert, key, ca: None }).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, fake) = (listener.local_addr().unwrap().to_string(), self.clone());
        tokio::spawn(async move {
            loop {
                let Ok(accepted) = tls.accept(listener.accept().await.unwrap().0).await else { continue };
                let fake = fake.clone();
                let service = service_fn(move |request| fake.clone().answer(request));
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(accepted.stream), service));
            }
        });
        address
    }
}

#[tokio::test]
async fn secrets_are_made_read_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    make_development(dir.path(), "c", &[], Duration::from_secs(86_400)).unwrap();
    for (file, text) in [("token", "secret\n"), ("namespace", "here")] {
        std::fs::write(dir.path().join(file), text).unwrap();
    }
    let address = Fake::default().serve(dir.path()).await;
    let labels = vec![("app".to_owned(), "walser".to_owned())];
    let server = ApiServer::with_account(address.clone(), dir.path(), labels).unwrap();
    assert_eq!(server.get("tls").await.unwrap(), None);
    let data = BTreeMap::from([("tls.crt".to_owned(), "PEM\n".to_owned())]);
    let secret = Secret { name: "tls".to_owned(), names: "a,b".to_owned(), data, ..Secret::default() };
    assert!(server.create(&secret).await.unwrap());
    assert!(!server.create(&secret).await.unwrap(), "there is one");
    let found = server.get("tls").await.unwrap().unwrap();
    assert_eq!((&found.names, &found.data), (&secret.names, &secret.data));
    let mut annotated = found.clone();
    annotated.object["metadata"]["annotations"]["of-another"] = json!("kept");
    server.replace(&annotated).await.unwrap();
    let after = server.get("tls").await.unwrap().unwrap();
    assert_eq!(after.object["metadata"]["annotations"]["of-another"], "kept");
    assert_eq!(after.object["metadata"]["labels"]["app"], "walser");
    let late = server.replace(&found).await.unwrap_err();
    assert!(late.what().contains("has been modified"), "{}", late.what());
    std::fs::write(dir.path().join("token"), "wrong").unwrap();
    let stranger = ApiServer::with_account(address, dir.path(), Vec::new()).unwrap();
    assert!(stranger.get("tls").await.unwrap_err().what().contains("refuses to show Secret tls"));
}
