//! Connects to a server and handles its errors: every error carries the words `retry` and `effect`, which say
//! what to do.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::{ErrorInfo, StatusExt};

pub use partition::partition;
pub use trace::{child, continued, traced};

mod partition;
mod trace;

/// The contract.
pub mod v1 {
    tonic::include_proto!("walser.v1");
}

const FIRST_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(5);

/// What a call gives.
pub type Answer<T> = Result<T, Status>;

/// What comes before a call, for the advice to restart; `None` where nothing can be redone.
pub type Restart<'a> = Option<&'a dyn Fn()>;

/// A connection to one of several servers.
pub struct Client {
    servers: VecDeque<String>,
    channel: Channel,
    /// How long it waited the last time,
    delay: Duration,
    /// and when.
    paused: Instant,
}

impl Client {
    /// Prepares a connection to the first server of `WALSER_SERVER`.
    pub fn new() -> Self {
        let servers = std::env::var("WALSER_SERVER").unwrap_or("127.0.0.1:7460".to_owned());
        let servers: VecDeque<String> = servers.split(',').map(str::to_owned).collect();
        Self { channel: connect(&servers[0]), servers, delay: FIRST_DELAY, paused: Instant::now() }
    }

    /// Makes a call until it succeeds, as long as the server advises to repeat it; else it ends the program. The
    /// call must be safe to repeat: a read, a membership, or a write with a producer session. Without a session, a
    /// write must not be repeated unless its effect is "none". `restart` redoes what comes before the call.
    pub async fn retry<T>(&mut self, call: impl AsyncFn(Channel) -> Answer<T>, restart: Restart<'_>) -> Option<T> {
        loop {
            let (advice, effect, problem) = match call(self.channel.clone()).await {
                Ok(done) => return Some(done),
                Err(error) => words(&error),
            };
            match (&*advice, restart) {
                _ if effect == "applied" => return None, // An earlier attempt succeeded.
                ("restart", Some(restart)) => restart(),
                ("backoff" | "reopen", _) => {}
                _ => exit(&problem),
            }
            self.pause(&problem).await;
        }
    }

    /// Waits, each time longer unless all was well for 5 s, and goes to the next server.
    async fn pause(&mut self, problem: &str) {
        eprintln!("retrying: {problem}");
        self.delay = if self.paused.elapsed() > MAX_DELAY { FIRST_DELAY } else { MAX_DELAY.min(self.delay * 2) };
        tokio::time::sleep(self.delay.mul_f64(0.8 + 0.4 * fastrand::f64())).await;
        self.servers.rotate_left(1);
        (self.channel, self.paused) = (connect(&self.servers[0]), Instant::now());
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

/// Prepares a connection. Pings find out that the server's machine is gone.
fn connect(server: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{server}"));
    let endpoint = endpoint.unwrap_or_else(|error| exit(&format!("{server}: {error}")));
    let endpoint = endpoint.connect_timeout(MAX_DELAY).http2_keep_alive_interval(Duration::from_secs(20));
    endpoint.keep_alive_timeout(MAX_DELAY).connect_lazy()
}

/// Returns retry and effect of an error, and a sentence with its reason.
fn words(error: &Status) -> (String, String, String) {
    // One without these words is gRPC's own. With these codes the connection broke, or ended before it took the
    // call (Cancelled), or the deadline passed.
    let no_answer = [Code::Unavailable, Code::DeadlineExceeded, Code::Unknown, Code::Internal, Code::Cancelled];
    let no_answer = no_answer.contains(&error.code());
    let advice = if no_answer { "backoff" } else { "never" };
    let own = [("retry", advice), ("effect", "maybe")].map(|(name, word)| (name.to_owned(), word.to_owned()));
    let own = || ErrorInfo::new(format!("{:?}", error.code()), "", HashMap::from(own));
    let ErrorInfo { reason, mut metadata, .. } = error.get_details_error_info().unwrap_or_else(own);
    let [retry, effect] = ["retry", "effect"].map(|name| metadata.remove(name).unwrap_or_default());
    let problem = format!("{reason}: {} (retry={retry}, effect={effect})", error.message());
    (retry, effect, problem)
}

/// Says when the program is asked to stop, by Ctrl-C or SIGTERM.
pub fn stopping() -> watch::Receiver<bool> {
    let (asked, stopping) = watch::channel(false);
    tokio::spawn(async move {
        let mut terminate = signal(SignalKind::terminate()).expect("signals can be waited for");
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        asked.send_replace(true);
    });
    stopping
}

fn exit(problem: &str) -> ! {
    eprintln!("{problem}");
    std::process::exit(1);
}
