//! CPU time and memory of processes, from `/proc`.

use std::sync::Arc;
use std::time::Duration;

use walser_model::{Clock as _, SystemClock};

/// Clock ticks per second that Linux shows in `/proc` (`USER_HZ`, the same on every architecture).
const TICKS_PER_SECOND: f64 = 100.0;

/// What client and servers used.
#[derive(Debug, Clone)]
pub(crate) struct Usage {
    servers: Vec<u32>,
    pub(crate) client_cpu_seconds: f64,
    /// Of all of them. `None`: one of them is not known, or has ended.
    pub(crate) server_cpu_seconds: Option<f64>,
    pub(crate) server_rss_bytes: Option<u64>,
}

impl Usage {
    /// The usage when measuring begins.
    pub(crate) async fn measure(servers: Vec<u32>, clock: Arc<SystemClock>, from: Duration) -> Self {
        tokio::time::sleep(from.saturating_sub(clock.monotonic())).await;
        Self {
            client_cpu_seconds: cpu_seconds(std::process::id()).unwrap_or(0.0),
            server_cpu_seconds: of_all(&servers, cpu_seconds),
            server_rss_bytes: None,
            servers,
        }
    }

    /// What was used since.
    pub(crate) fn until_now(self) -> Self {
        let now = cpu_seconds(std::process::id()).unwrap_or(0.0);
        let server_now = of_all(&self.servers, cpu_seconds);
        Self {
            client_cpu_seconds: now - self.client_cpu_seconds,
            server_cpu_seconds: server_now.zip(self.server_cpu_seconds).map(|(now, then)| now - then),
            server_rss_bytes: of_all(&self.servers, rss_bytes),
            servers: self.servers,
        }
    }
}

/// The sum over all processes; `None` where one is not known, or there is none.
fn of_all<T: std::iter::Sum>(pids: &[u32], of_one: impl Fn(u32) -> Option<T>) -> Option<T> {
    if pids.is_empty() { None } else { pids.iter().map(|pid| of_one(*pid)).sum() }
}

fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may have spaces; user and system time are the 12th and 13th field behind it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

fn rss_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// The process on this machine that listens on the port of `server`.
pub(crate) fn listening(server: &str) -> Option<u32> {
    let port: u16 = server.rsplit_once(':')?.1.parse().ok()?;
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().find_map(|table| listening_inode(table, port))?;
    let wanted = format!("socket:[{inode}]");
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(files) = std::fs::read_dir(entry.path().join("fd")) else { continue };
        let found = files
            .flatten()
            .any(|file| std::fs::read_link(file.path()).is_ok_and(|target| target.to_str() == Some(wanted.as_str())));
        if found {
            return Some(pid);
        }
    }
    None
}

fn listening_inode(table: &str, port: u16) -> Option<String> {
    const LISTEN: &str = "0A";
    let text = std::fs::read_to_string(table).ok()?;
    text.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let local = fields.get(1)?.rsplit_once(':')?.1;
        let matches = u16::from_str_radix(local, 16) == Ok(port) && fields.get(3) == Some(&LISTEN);
        matches.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
    })
}
