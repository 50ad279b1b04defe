//! How other terminals reach the supervisor: a Unix socket in the directory of the cluster, one line of JSON each way.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::layout::{self, ClusterFile, ClusterProcess};
use crate::cli::ClusterRole;
use crate::error::{CliError, FAILED, UNAVAILABLE};
use crate::output;

/// Most bytes of a request, and of an answer.
const REQUEST_BYTES_MAX: u64 = 4 << 10;
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// Terminals that wait for an answer at once; more wait until one has it.
const CONNECTIONS_MAX: usize = 16;
/// A client that connects and says nothing for so long is left.
const PATIENCE: Duration = Duration::from_secs(5);

/// So long is nothing said while something is being done.
const QUIET_MAX: Duration = Duration::from_secs(5);

/// What is to be done with processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ControlAction {
    Status,
    Start,
    Stop,
    Kill,
    Pause,
    Resume,
}

/// What another terminal asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ControlRequest {
    pub(crate) action: ControlAction,
    /// `None`: all roles.
    pub(crate) role: Option<ClusterRole>,
    /// `None`: all of the role.
    pub(crate) id: Option<u32>,
}

impl ControlRequest {
    /// Whether it means this process.
    pub(super) fn means(&self, process: &ClusterProcess) -> bool {
        self.role.is_none_or(|role| role == process.role) && self.id.is_none_or(|id| id == process.id)
    }
}

/// What the supervisor says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ControlAnswer {
    /// It is done, and these are the processes that were meant.
    Done(ClusterFile),
    /// It is not done, and why.
    Failed(String),
    /// It cannot be done.
    Refused(ControlRefusal),
}

/// Why something cannot be done.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ControlRefusal {
    pub(crate) why: String,
    /// The exit code of whoever asks.
    pub(crate) code: u8,
}

impl From<String> for ControlRefusal {
    fn from(why: String) -> Self {
        Self { why, code: FAILED }
    }
}

/// A request, and where the answer goes.
pub(crate) struct Asked {
    pub(crate) request: ControlRequest,
    answer: oneshot::Sender<ControlAnswer>,
}

/// Takes requests from now on.
///
/// # Errors
/// When the system gives no socket there.
pub(crate) fn listen(socket: &Path) -> Result<mpsc::Receiver<Asked>, CliError> {
    // One of an earlier run: the directory is locked, nobody listens there.
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket).map_err(|error| {
        let failed = CliError::failed(format!("control socket {}: {error}", socket.display()));
        failed.with_help("a socket's path has about 100 characters at most: choose a shorter --dir")
    })?;
    let (sender, requests) = mpsc::channel(1);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let sender = sender.clone();
            tokio::spawn(async move {
                serve(connection, sender).await;
                drop(place);
            });
        }
    });
    Ok(requests)
}

/// Takes one request, and answers it when it is done.
async fn serve(mut connection: UnixStream, sender: mpsc::Sender<Asked>) {
    let read = timeout(PATIENCE, read::<ControlRequest>(&mut connection, REQUEST_BYTES_MAX));
    let answer = match read.await {
        Ok(Ok(request)) => {
            let (answer, answered) = oneshot::channel();
            if sender.send(Asked { request, answer }).await.is_err() {
                return;
            }
            answered.await.unwrap_or_else(|_| ControlAnswer::Failed("the cluster stops".to_owned()))
        }
        Ok(Err(error)) => ControlAnswer::Failed(format!("the request cannot be read: {error}")),
        Err(_elapsed) => return,
    };
    let _ = timeout(PATIENCE, write(&mut connection, &answer)).await;
}

/// Asks the supervisor of the cluster in a directory, and returns the processes that were meant.
///
/// # Errors
/// When none runs there, or what was asked for cannot be done.
pub(crate) async fn ask(directory: &Path, request: &ControlRequest) -> Result<Vec<ClusterProcess>, CliError> {
    let refused = |error: std::io::Error| {
        let failed = CliError::failed(format!("no cluster answers in {}: {error}", directory.display()));
        let help = format!("start one with walser cluster up --dir {}", directory.display());
        failed.with_help(help).with_code(UNAVAILABLE)
    };
    let mut connection = UnixStream::connect(layout::control_socket(directory)).await.map_err(refused)?;
    write(&mut connection, request).await.map_err(refused)?;
    let mut answer = pin!(read(&mut connection, ANSWER_BYTES_MAX));
    let answer = match timeout(QUIET_MAX, &mut answer).await {
        Ok(answer) => answer,
        Err(_elapsed) => {
            output::note(&format!("not done yet; what the processes say is in {}/*.log", directory.display()));
            answer.await
        }
    };
    match answer.map_err(refused)? {
        ControlAnswer::Done(file) => Ok(file.processes),
        ControlAnswer::Failed(why) => Err(CliError::failed(why)),
        ControlAnswer::Refused(ControlRefusal { why, code }) => Err(CliError::failed(why).with_code(code)),
    }
}

async fn read<T: serde::de::DeserializeOwned>(connection: &mut UnixStream, bytes_max: u64) -> std::io::Result<T> {
    let mut line = Vec::new();
    BufReader::new(connection.take(bytes_max)).read_until(b'\n', &mut line).await?;
    Ok(serde_json::from_slice(&line)?)
}

async fn write(connection: &mut UnixStream, message: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    connection.write_all(&line).await
}

// === impl Asked ===

impl Asked {
    /// Says how it went. Whoever asked may have gone.
    pub(crate) fn answer(self, outcome: Result<Vec<ClusterProcess>, ControlRefusal>) {
        let answer = match outcome {
            Ok(processes) => ControlAnswer::Done(ClusterFile { processes, tls_ca: None }),
            // As every version knows it.
            Err(ControlRefusal { why, code: FAILED }) => ControlAnswer::Failed(why),
            Err(refusal) => ControlAnswer::Refused(refusal),
        };
        let _ = self.answer.send(answer);
    }
}
