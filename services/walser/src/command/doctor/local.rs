//! This machine: what in its environment keeps gRPC clients from a server.

use rustix::process::{Resource, getrlimit};

use super::report::Report;
use crate::server::Server;

/// Variables by which gRPC clients go through a proxy: those of the C core (Python, Ruby, PHP, C++), Node.js and Go.
const PROXIES: [&str; 7] =
    ["grpc_proxy", "https_proxy", "http_proxy", "GRPC_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"];
/// Variables that name hosts which are reached without one.
const EXCEPTIONS: [&str; 3] = ["no_grpc_proxy", "no_proxy", "NO_PROXY"];
/// Fewer files than this are told: every connection and every segment that is read is one.
const FILES_TOLD: u64 = 1024;

pub(super) fn look(server: &Server, report: &mut Report) {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let host = server.address.rsplit_once(':').map_or(server.address.as_str(), |(host, _)| host);
    proxies(host.trim_matches(['[', ']']), variable, report);
    let files = getrlimit(Resource::Nofile);
    if let Some(current) = files.current.filter(|current| *current < FILES_TOLD) {
        let help = "raise it with `ulimit -n 65536` in this shell, or LimitNOFILE= of the service: a client or server that \
                    is at the limit takes no connections";
        report.warned("files", format!("a process of this shell may have {current} files and connections open"), help);
    }
}

/// Proxies that clients of a host would go through. Their addresses are not told: they may have passwords in them.
fn proxies(host: &str, variable: impl Fn(&str) -> Option<String>, report: &mut Report) {
    let set: Vec<_> = PROXIES.into_iter().filter(|name| variable(name).is_some()).collect();
    let excepted = EXCEPTIONS.into_iter().filter_map(&variable).any(|hosts| names(&hosts, host));
    if set.is_empty() || excepted {
        return;
    }
    let help = format!(
        "clients in Python, Go, Node.js and others then connect through the proxy, which has to let HTTP/2 pass; this \
         program does not. Set no_proxy={host}, or leave these variables away for them"
    );
    report.warned("proxy", format!("gRPC clients go through a proxy: {} is set", set.join(", ")), help);
}

/// Whether a list of hosts with commas has one, by its name or by the domain that it is in.
fn names(hosts: &str, host: &str) -> bool {
    hosts.split(',').map(|known| known.trim().trim_start_matches('.')).any(|known| {
        let inside = host.strip_suffix(known).is_some_and(|before| before.is_empty() || before.ends_with('.'));
        known == "*" || !known.is_empty() && inside
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_that_catches_grpc_is_told_without_its_address() {
        let told = |pairs: &[(&str, &str)], host: &str| {
            let mut report = Report::default();
            let find =
                |name: &str| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
            proxies(host, find, &mut report);
            report.troubles().into_iter().map(|(_, text)| text.to_owned()).collect::<Vec<_>>()
        };
        let proxy = ("https_proxy", "http://me:secret@proxy:3128");
        assert_eq!(told(&[proxy], "walser.example"), ["gRPC clients go through a proxy: https_proxy is set"]);
        for (hosts, caught) in [
            ("localhost,.example", false),
            ("walser.example", false),
            ("*", false),
            ("ser.example", true),
            ("other", true),
            ("", true),
        ] {
            assert_eq!(!told(&[proxy, ("no_proxy", hosts)], "walser.example").is_empty(), caught, "{hosts}");
        }
        assert!(told(&[], "walser.example").is_empty());
    }
}
