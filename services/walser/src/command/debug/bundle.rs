//! `walser debug bundle`.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::archive::Archive;
use super::metadata;
use super::processes::{AdminArgs, Asked};
use crate::admin_port;
use crate::args::ServerArgs;
use crate::cli::ClusterRole;
use crate::command::cluster::ClusterFile;
use crate::command::produce::now_ms;
use crate::error::{CliError, UNAVAILABLE};
use crate::output::{self, bytes, plural};
use crate::server::Server;

/// What each admin port is asked for, and the file that it becomes. Of the first three the answer says how the process is,
/// also where it is no success.
const PARTS: [(&str, &str, bool); 7] = [
    ("/livez", "livez.txt", true),
    ("/startupz", "startupz.txt", true),
    ("/readyz", "readyz.txt", true),
    ("/metrics", "metrics.txt", false),
    ("/settings", "settings.toml", false),
    ("/log", "log-level.txt", false),
    ("/log/recent", "recent.log", false),
];
/// Most bytes of a log file that are taken, from its end.
const LOG_BYTES_MAX: u64 = 4 << 20;
/// Most processes that are asked.
const PROCESSES_MAX: usize = 300;
/// The admin port that is not asked when it is of another server.
const OTHER: &str = "the process there is not the server that was named; name its admin port with --admin";

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walser debug bundle walser.tar.gz
  walser debug bundle walser.tar.gz --dir ./walser-cluster
  walser debug bundle walser.tar.gz --server gw:7460 \\
      --admin 10.0.0.7:7463 --admin 10.0.0.8:7463

No records, keys or secrets are in it, but names of topics, groups and clients,
addresses and paths. MANIFEST.json in it says what could not be had, and why. A
process gives settings and log lines to callers on its own machine only, unless
its setting admin.remote says otherwise: elsewhere, run it there, or through
`kubectl port-forward` or `ssh -L`.")]
pub(crate) struct DebugBundleArgs {
    /// File to write, a compressed tar archive
    #[arg(value_name = "FILE.tar.gz")]
    file: PathBuf,
    /// Overwrite FILE
    #[arg(short = 'f', long)]
    force: bool,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// What the end of a log file is called, below its process.
const LOG_END: &str = "/end.log";

pub(super) async fn run(arguments: DebugBundleArgs) -> Result<ExitCode, CliError> {
    let DebugBundleArgs { file, force, admin, mut server } = arguments;
    let cluster = admin.cluster()?;
    if let Some(cluster) = &cluster {
        of_cluster(&mut server, cluster);
    }
    let server = Server::of(&server)?;
    let mut archive = Archive::create(&file, force, now_ms())?;
    if let Some(cluster) = &cluster {
        archive.add("cluster.json", serde_json::to_string_pretty(cluster)?.as_bytes())?;
    }
    metadata::add(&server, &mut archive).await?;
    let processes = admin.processes()?;
    for process in processes.iter().take(PROCESSES_MAX) {
        let only = admin.is_default().then_some(server.address.as_str());
        ask(process, only, &mut archive).await?;
    }
    if processes.len() > PROCESSES_MAX {
        archive.lacks("processes", format!("only the first {PROCESSES_MAX} of {} were asked", processes.len()));
    }
    let about = json!({
        "program": env!("CARGO_PKG_VERSION"),
        "system": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        "server": server.address,
        "context": server.context,
        "processes": processes.iter().map(|process| &process.name).collect::<Vec<_>>(),
    });
    let manifest = archive.finish(about)?;
    let (count, size) = (i64::try_from(manifest.file_count()), i64::try_from(manifest.bytes()));
    let (count, size) = (plural(count.unwrap_or(i64::MAX), "file"), bytes(size.unwrap_or(i64::MAX)));
    output::data(&format!("{}: {count}, {size} before compression", file.display()));
    for missing in manifest.missing() {
        output::warning(&format!("not in it: {}: {}", missing.what, missing.why));
    }
    if manifest.has_only(|name| ["cluster.json", "doctor.json"].contains(&name) || name.ends_with(LOG_END)) {
        let help =
            "name a gateway with --server HOST:PORT, admin ports with --admin HOST:PORT, or a cluster with --dir DIR";
        let nobody = CliError::failed("nothing that was asked has answered; the file says why");
        return Err(nobody.with_code(UNAVAILABLE).with_help(help));
    }
    Ok(ExitCode::SUCCESS)
}

/// A gateway of the cluster, where nothing else is named.
fn of_cluster(server: &mut ServerArgs, cluster: &ClusterFile) {
    let gateway =
        cluster.processes.iter().find(|process| process.role == ClusterRole::Gateway && process.pid.is_some());
    let Some(gateway) = gateway.filter(|_| server.server.is_none() && server.context.is_none()) else { return };
    server.server = Some(gateway.address().to_string());
    if server.tls.is_unused() {
        server.tls.tls_ca = cluster.tls_ca.clone();
    }
}

/// Whether a process that listens at an address is the server at another one: a name of this machine, or one of its
/// addresses where the process listens at all of them.
fn serves_at(listens: Option<&str>, server: &str) -> bool {
    let Some(listens) = listens.and_then(|listens| listens.parse::<SocketAddr>().ok()) else { return false };
    let is_own = |ip: IpAddr| ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok();
    let is_it = |at: SocketAddr| {
        let same = at.ip() == listens.ip() || listens.ip().is_unspecified() && is_own(at.ip());
        same && at.port() == listens.port()
    };
    server.to_socket_addrs().is_ok_and(|mut all| all.any(is_it))
}

/// Adds what a process says. `only`: where it serves this gRPC address.
async fn ask(process: &Asked, only: Option<&str>, archive: &mut Archive) -> Result<(), CliError> {
    let Asked { name, admin, why_not, .. } = process;
    let Some(admin) = admin else {
        archive.lacks(name.as_str(), why_not.as_str());
        return tail(process, archive);
    };
    for (path, file, at_any_rate) in PARTS {
        let what = format!("processes/{name}/{file}");
        match admin_port::get(admin, path).await {
            Ok(answer) if only.is_some_and(|only| !serves_at(answer.grpc.as_deref(), only)) => {
                archive.lacks(name.as_str(), OTHER);
                return Ok(());
            }
            Ok(answer) if at_any_rate || answer.is_success() => archive.add(&what, answer.text.as_bytes())?,
            Ok(answer) => archive.lacks(what, answer.refusal()),
            // The other parts would not be had either, each after some time.
            Err(error) => {
                archive.lacks(name.as_str(), error);
                return tail(process, archive);
            }
        }
    }
    Ok(())
}

/// Adds the end of the log file of a process that does not answer.
fn tail(process: &Asked, archive: &mut Archive) -> Result<(), CliError> {
    let Some(log) = process.log() else { return Ok(()) };
    let name = format!("processes/{}{LOG_END}", process.name);
    match end_of(log) {
        Ok(text) => archive.add(&name, &text),
        Err(error) => {
            archive.lacks(name, format!("{}: {error}", log.display()));
            Ok(())
        }
    }
}

fn end_of(log: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(log)?;
    let begin = file.metadata()?.len().saturating_sub(LOG_BYTES_MAX);
    file.seek(SeekFrom::Start(begin))?;
    let mut text = Vec::new();
    file.take(LOG_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::serves_at;

    #[test]
    fn a_process_that_listens_everywhere_is_at_every_address_of_this_machine() {
        for (listens, server, is_it) in [
            ("127.0.0.1:7460", "127.0.0.1:7460", true),
            ("127.0.0.1:7460", "localhost:7460", true),
            ("0.0.0.0:7460", "127.0.0.1:7460", true),
            ("0.0.0.0:7460", "192.0.2.1:7460", false),
            ("127.0.0.2:7460", "127.0.0.1:7460", false),
            ("127.0.0.1:7461", "127.0.0.1:7460", false),
        ] {
            assert_eq!(serves_at(Some(listens), server), is_it, "{listens} {server}");
        }
        assert!(!serves_at(None, "127.0.0.1:7460"));
    }
}
