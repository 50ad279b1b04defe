//! The way to a server, step by step: its name, a connection, TLS, HTTP/2, gRPC. The first step that fails is the last.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};
use walser_proto::v1 as pb;
use walser_tls::{ClientTls, ShownCertificate};

use super::report::Report;
use crate::error::{CliError, tls_help};
use crate::http1::{OtherPort, speaks_http1};
use crate::output::first_of;
use crate::server::Server;

/// How long a step may take.
const STEP_MAX: Duration = Duration::from_secs(5);
/// Addresses of a name that are tried, and told.
const ADDRESSES_MAX: usize = 8;
/// What a client of HTTP/2 begins with, and its settings, of which there are none (RFC 9113, sections 3.4 and 6.5).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Bytes of the head of a frame, where in it the type is, and the type of settings.
const HEAD: usize = 9;
const TYPE: usize = 3;
const SETTINGS: u8 = 4;
/// A certificate that ends within so many days is told.
const DAYS_WARNED: i64 = 14;

/// Goes the way. Whether a server of ours was found at its end.
pub(super) async fn look(server: &Server, report: &mut Report) -> bool {
    let named = server.context.as_ref().map_or_else(String::new, |name| format!(", of context {name}"));
    report.fine("server", format!("server {}{named}", server.address));
    let Some((host, addresses)) = resolve(&server.address, report).await else { return false };
    let Some(stream) = connect(&addresses, report).await else { return false };
    let reached = match &server.tls {
        Some(tls) => over_tls((tls, &host), stream, report).await,
        None => speaks_http2(stream, Some(&server.address), report).await,
    };
    reached && answers(server, report).await
}

async fn resolve(address: &str, report: &mut Report) -> Option<(String, Vec<SocketAddr>)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_matches(['[', ']']);
    let port = port.parse::<u16>().ok()?;
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Some((host.to_owned(), vec![SocketAddr::new(ip, port)]));
    }
    let help = format!("check the spelling, and what this machine knows of it: `getent hosts {host}`");
    match timeout(STEP_MAX, lookup_host((host, port))).await {
        Ok(Ok(found)) => {
            let addresses: Vec<_> = found.take(ADDRESSES_MAX).collect();
            let shown = addresses.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>().join(", ");
            report.fine("name", format!("{host} is {shown}"));
            Some((host.to_owned(), addresses))
        }
        Ok(Err(error)) => {
            report.failed("name", format!("the name {host} does not resolve: {error}"), help);
            None
        }
        Err(_elapsed) => {
            report.failed("name", format!("the name {host} does not resolve: no answer from DNS"), help);
            None
        }
    }
}

async fn connect(addresses: &[SocketAddr], report: &mut Report) -> Option<TcpStream> {
    let (mut stream, mut refused) = (None, Vec::new());
    for address in addresses {
        let begun = Instant::now();
        match timeout(STEP_MAX, TcpStream::connect(address)).await {
            Ok(Ok(connected)) => {
                let _ = connected.set_nodelay(true);
                stream = stream.or_else(|| {
                    report.fine("tcp", format!("connected to {address} in {}", millis(begun.elapsed())));
                    Some(connected)
                });
            }
            Ok(Err(error)) => refused.push((format!("{address}: {error}"), error.kind())),
            Err(_elapsed) => refused.push((format!("{address}: no answer"), std::io::ErrorKind::TimedOut)),
        }
    }
    if let Some((_, kind)) = refused.first() {
        let help = match kind {
            std::io::ErrorKind::ConnectionRefused => {
                "nothing listens there: start the server (`walser up`), or name its gRPC port with --server HOST:PORT"
            }
            _ => "a firewall, a route or the machine is in the way: try the same from the machine of the server",
        };
        let text = first_of(refused.iter().map(|(text, _)| text.clone()), refused.len(), ADDRESSES_MAX);
        match stream {
            Some(_) => report.warned("tcp", format!("not all addresses of the name can be reached: {text}"), help),
            None => report.failed("tcp", text, help),
        }
    }
    stream
}

async fn over_tls((tls, host): (&ClientTls, &str), stream: TcpStream, report: &mut Report) -> bool {
    match tls.connect(stream, host).await {
        Ok(stream) => {
            match ShownCertificate::of(&stream) {
                Some(shown) => certificate(&shown, host, now_seconds(), report),
                None => report.fine("tls", "TLS is agreed on"),
            }
            speaks_http2(stream, None, report).await
        }
        Err(error) => {
            let words = error.to_string();
            report.failed("tls", format!("TLS with {host}: {words}"), tls_help(&words));
            false
        }
    }
}

/// A certificate that is believed, which may end soon. `now`: seconds since the epoch.
fn certificate(shown: &ShownCertificate, host: &str, now: i64, report: &mut Report) {
    let ShownCertificate { issuer, names, not_after, version } = shown;
    let version = version.replace("TLSv", "TLS ").replace('_', ".");
    let days = (not_after - now).div_euclid(86_400);
    let names = first_of(names.iter().cloned(), names.len(), 5);
    let text =
        format!("{version} with {host}: certificate for {names}, signed by \"{issuer}\", valid {days} more days");
    if days < DAYS_WARNED {
        let help = "it has to be renewed in its file on the server, which takes the new one without a restart";
        report.warned("tls", text, help);
    } else {
        report.fine("tls", text);
    }
}

/// Whether the other side sends what an HTTP/2 server begins with. `plain`: the address, which another port than that of gRPC
/// may have, where there is no TLS.
async fn speaks_http2(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    plain: Option<&str>,
    report: &mut Report,
) -> bool {
    let first = async {
        stream.write_all(PREFACE).await?;
        stream.flush().await?;
        let mut head = [0; HEAD];
        stream.read_exact(&mut head).await?;
        Ok::<_, std::io::Error>(head)
    };
    let text = match timeout(STEP_MAX, first).await {
        Ok(Ok(head)) if head[TYPE] == SETTINGS && !head.starts_with(b"HTTP") => {
            report.fine("http2", "HTTP/2 is spoken");
            return true;
        }
        Ok(Ok(_)) => "what listens there does not speak HTTP/2".to_owned(),
        Ok(Err(error)) => format!("the connection ended before HTTP/2 was spoken: {error}"),
        Err(_elapsed) => format!("no sign of HTTP/2 within {} s: the process hangs or is stopped", STEP_MAX.as_secs()),
    };
    let other = match plain {
        Some(address) => speaks_http1(address).await,
        None => None,
    };
    let help = match other {
        Some(OtherPort::Admin(grpc)) => format!("this is the admin port; its gRPC port is {grpc}: --server {grpc}"),
        Some(OtherPort::Tls) => tls_help(walser_tls::SPOKEN_TO_WITHOUT).to_owned(),
        Some(OtherPort::Web) => {
            "it speaks HTTP/1.1: name the gRPC port with --server HOST:PORT; a proxy on the way has to speak HTTP/2 to both \
             sides"
                .to_owned()
        }
        None => "look at the process there and at its log; a proxy on the way has to speak HTTP/2 to both sides".to_owned(),
    };
    report.failed("http2", text, help);
    false
}

/// Whether a gateway answers.
async fn answers(server: &Server, report: &mut Report) -> bool {
    let mut client = server.client.cluster();
    let error: CliError = match timeout(2 * STEP_MAX, client.get_cluster(pb::GetClusterRequest {})).await {
        Ok(Ok(_)) => {
            report.fine("grpc", "the server answers calls");
            return true;
        }
        Ok(Err(status)) => server.failed(status).looked_into().await,
        Err(_elapsed) => CliError::failed(format!("{} takes connections and answers no call", server.address))
            .with_help("look at the process and its log"),
    };
    report.failed("grpc", error.what(), error.help().unwrap_or("look at the log of the server"));
    false
}

/// A time in milliseconds with a digit, for people.
pub(super) fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

fn now_seconds() -> i64 {
    crate::command::produce::now_ms() / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_ends_soon_is_told() {
        let shown = |days: i64| ShownCertificate {
            issuer: "CN=x".to_owned(),
            names: vec!["a".to_owned()],
            not_after: days * 86_400,
            version: "TLSv1_3".to_owned(),
        };
        let mut report = Report::default();
        certificate(&shown(DAYS_WARNED), "a", 0, &mut report);
        assert_eq!(report.troubles(), []);
        certificate(&shown(3), "a", 0, &mut report);
        let text = "TLS 1.3 with a: certificate for a, signed by \"CN=x\", valid 3 more days";
        assert_eq!(report.troubles(), [("tls", text)]);
    }
}
