//! What the admin port has for callers on this machine: settings, the newest lines of the log, and its level.
//!
//! Probes and metrics are for whoever reaches the port. These say more, or change something, and nobody authenticates here:
//! other machines get them only where the setting `admin.remote` says so. A web page in a browser on this machine is not a
//! caller on it: it can reach the port by a name that leads here (DNS rebinding), which is why requests name an IP address.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::serve::IncomingStream;
use tokio::net::TcpListener;
use walser_model::parse_duration_ms;

use super::{AdminSite, REMOTE};
use crate::telemetry::FILTER_BYTES_MAX;

/// How long a filter may be in force that is for a while.
const LIMIT_MAX: Duration = Duration::from_secs(7 * 86_400);

/// Both ends of a connection to the admin port; `None` where the system does not say.
#[derive(Debug, Clone, Copy)]
pub(super) struct AdminConnection {
    caller: Option<IpAddr>,
    own: Option<IpAddr>,
}

/// What the routes answer: why not, in a line, otherwise.
type Answer = Result<String, (StatusCode, String)>;

/// The routes, for a port with connections that are known as [`AdminConnection`].
pub(super) fn routes(site: &AdminSite) -> Router<AdminSite> {
    Router::new()
        .route("/settings", get(async |State(site): State<AdminSite>| site.settings.listing()))
        .route("/log", get(async |State(site): State<AdminSite>| site.log.describe()).put(change_log))
        .route("/log/recent", get(async |State(site): State<AdminSite>| site.log.recent()))
        .route_layer(from_fn_with_state(site.settings.flag(REMOTE.name), only_local))
}

/// Refuses callers that are not on this machine, unless others may call as well.
async fn only_local(
    State(remote): State<bool>,
    ConnectInfo(connection): ConnectInfo<AdminConnection>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    let allowed = if remote { !is_of_a_web_page(headers) } else { connection.is_local() && names_an_address(headers) };
    if allowed {
        return next.run(request).await;
    }
    let text = "only callers on this machine get this, and only those that name it by its IP address or localhost: ask \
                there, or through a tunnel that ends there (ssh -L, kubectl port-forward); the setting admin.remote=true \
                opens it to others, but to no web page\n";
    (StatusCode::FORBIDDEN, text).into_response()
}

/// Browsers name the page that a request comes from, which may be of another site.
fn is_of_a_web_page(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN)
}

/// Whether the request is to `localhost` or an IP address, and from no web page.
fn names_an_address(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let is_ip = host.parse::<SocketAddr>().is_ok() || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
    !is_of_a_web_page(headers) && (is_ip || name == "localhost")
}

/// `PUT /log`, with a filter for its body, and `?for=10m`, which says how long it is in force.
async fn change_log(State(site): State<AdminSite>, request: Request<Body>) -> Answer {
    let wrong = |text: String| (StatusCode::BAD_REQUEST, format!("{text}\n"));
    let limit = request.uri().query().map(limit).transpose().map_err(wrong)?;
    let body = to_bytes(request.into_body(), FILTER_BYTES_MAX).await;
    let body = body.map_err(|_| wrong(format!("the filter has more than {FILTER_BYTES_MAX} bytes")))?;
    let filter = std::str::from_utf8(&body).map_err(|_| wrong("the filter is not UTF-8 text".to_owned()))?;
    site.log.set(filter.trim(), limit).map_err(|refused| wrong(refused.to_string()))?;
    Ok(site.log.describe())
}

/// The time that a query names.
fn limit(query: &str) -> Result<Duration, String> {
    let text = query.strip_prefix("for=").ok_or_else(|| format!("\"{query}\" is not for=TIME, as in for=10m"))?;
    let limit = parse_duration_ms(text).map_err(|error| error.to_string())?;
    let limit = Duration::from_millis(u64::try_from(limit).unwrap_or(0));
    match limit {
        Duration::ZERO => Err("a time for the filter is longer than 0".to_owned()),
        limit if limit > LIMIT_MAX => Err("a time for the filter is at most 7d".to_owned()),
        limit => Ok(limit),
    }
}

// === impl AdminConnection ===

impl AdminConnection {
    /// Whether the caller is on this machine: it calls from the address that it calls, or between loopback addresses. From one
    /// of those to another address proxies call that have others behind them, as those of service meshes do.
    fn is_local(self) -> bool {
        let (Some(caller), Some(own)) = (self.caller, self.own) else { return false };
        caller == own || caller.is_loopback() && own.is_loopback()
    }
}

impl Connected<IncomingStream<'_, TcpListener>> for AdminConnection {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        let own = stream.io().local_addr().ok().map(|own| own.ip().to_canonical());
        Self { caller: Some(stream.remote_addr().ip().to_canonical()), own }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(caller: [u8; 4], own: [u8; 4]) -> AdminConnection {
        AdminConnection { caller: Some(IpAddr::from(caller)), own: Some(IpAddr::from(own)) }
    }

    #[test]
    fn callers_on_this_machine_are_known_by_their_address() {
        assert!(connection([127, 0, 0, 1], [127, 0, 0, 1]).is_local());
        assert!(connection([10, 0, 0, 7], [10, 0, 0, 7]).is_local());
        assert!(connection([127, 0, 0, 1], [127, 9, 5, 1]).is_local());
        assert!(!connection([10, 0, 0, 8], [10, 0, 0, 7]).is_local());
        assert!(!connection([127, 0, 0, 6], [10, 0, 0, 7]).is_local());
        assert!(!AdminConnection { caller: None, own: None }.is_local());
    }

    #[test]
    fn requests_of_web_pages_are_no_local_ones() {
        let headers = |pairs: &[(header::HeaderName, &str)]| {
            pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect::<HeaderMap>()
        };
        for host in ["127.0.0.1:7463", "127.0.0.1", "[::1]:7463", "[::1]", "localhost:7463", "localhost"] {
            assert!(names_an_address(&headers(&[(header::HOST, host)])), "{host}");
            assert!(!names_an_address(&headers(&[(header::HOST, host), (header::ORIGIN, "http://x")])), "{host}");
        }
        for host in ["evil.example:7463", "localhost.evil.example", "", "127.0.0.1.evil.example:80"] {
            assert!(!names_an_address(&headers(&[(header::HOST, host)])), "{host}");
        }
    }

    #[test]
    fn a_time_for_a_filter_has_bounds() {
        assert_eq!(limit("for=10m"), Ok(Duration::from_secs(600)));
        for bad in ["for=0", "for=8d", "for=-1", "for=soon", "until=10m", "for"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }
}
