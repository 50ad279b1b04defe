//! `walser cluster`: a cluster of separate processes on this machine, for trying out and for tests.
//!
//! ```text
//!   walser cluster up ── supervisor ── spawns ──> walser controller | storage-node | ...
//!                            ^  '── writes ──> DIR/cluster.json
//!   walser cluster kill ─────'
//!          DIR/control.sock: a line of JSON there, a line of JSON back
//! ```
//!
//! Invariant: only the supervisor waits for its processes, so that a process id it signals is never another's.
//! Invariant: no process outlives the supervisor, also when that is killed.

mod certificates;
mod complaint;
mod config;
mod control;
mod layout;
mod lost_members;
mod metastore;
mod supervisor;
mod upgrade;

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use crate::args::Form;
use crate::cli::{ClusterCommand, ClusterProcessArgs, ClusterStatusArgs, ClusterUpArgs, ServiceCommandArgs};
use crate::error::{CliError, NOT_FOUND};
use crate::output;
use crate::signal::Interrupts;

use control::{ControlAction, ControlRequest};
use layout::ClusterDirectory;
pub(super) use layout::{ClusterFile, ClusterProcess, ClusterProcessState};
use metastore::ClusterMetastore;
use supervisor::Supervisor;

/// Runs the command.
pub(crate) fn run(command: ClusterCommand) -> Result<ExitCode, CliError> {
    // One thread: the system ends the processes when the thread that has spawned them is gone.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            ClusterCommand::Up(arguments) => up(&arguments).await,
            ClusterCommand::Status(arguments) => show(&arguments).await,
            ClusterCommand::Start(arguments) => ask(&arguments, ControlAction::Start).await,
            ClusterCommand::Stop(arguments) => ask(&arguments, ControlAction::Stop).await,
            ClusterCommand::Kill(arguments) => ask(&arguments, ControlAction::Kill).await,
            ClusterCommand::Pause(arguments) => ask(&arguments, ControlAction::Pause).await,
            ClusterCommand::Resume(arguments) => ask(&arguments, ControlAction::Resume).await,
            ClusterCommand::Config(command) => config::run(command).await,
            ClusterCommand::FinalizeUpgrade(arguments) => upgrade::run(&arguments).await,
            ClusterCommand::Become(arguments) => become_program(&arguments),
        }
    })
}

/// What `cluster.json` in the directory of a cluster says.
///
/// # Errors
/// When there is none, or it cannot be read.
pub(super) fn cluster_file(directory: &Path) -> Result<ClusterFile, CliError> {
    let file = directory.join("cluster.json");
    let failed = |error: &dyn std::error::Error| {
        let failed = CliError::failed(format!("{}: {error}", file.display()));
        failed.with_help("name the directory that `walser cluster up --dir DIR` was given").with_code(NOT_FOUND)
    };
    let text = std::fs::read(&file).map_err(|error| failed(&error))?;
    serde_json::from_slice(&text).map_err(|error| failed(&error))
}

async fn up(arguments: &ClusterUpArgs) -> Result<ExitCode, CliError> {
    let directory = ClusterDirectory::lock(&arguments.place.dir)?;
    let metastore = ClusterMetastore::decide(&directory, arguments)?;
    let processes = layout::plan(&directory, arguments, &metastore)?;
    certificates::make_certificates(&directory)?;
    for left in directory.left_out(&processes)? {
        output::warning(&format!(
            "{left} was a part of this cluster and is not started: what only it has is missing. Where it has left for good: \
             `walser node deregister ID`, and remove its directory"
        ));
    }
    let mut interrupts = Interrupts::listen()?;
    let requests = control::listen(&directory.control_socket())?;
    let mut supervisor = Supervisor::new(directory, metastore, processes)?;
    let started = tokio::select! {
        started = supervisor.start_all() => started,
        interrupt = interrupts.next() => Err(CliError::interrupted(interrupt)),
    };
    let outcome = match started {
        Ok(()) => {
            // Whoever reads the table may be gone before it: the cluster runs on.
            let shown = output::try_data(&table(supervisor.processes()));
            if let Err(error) = shown.or_else(unless_unread) {
                output::warning(&format!("standard output: {error}"));
            }
            output::note(&supervisor.advice());
            supervisor.run(requests, &mut interrupts).await
        }
        failed => failed,
    };
    output::note("stopping");
    supervisor.stop_all().await;
    outcome.map(|()| ExitCode::SUCCESS)
}

/// Becomes a program that knows nothing of its parent, and ends with it all the same.
fn become_program(arguments: &ServiceCommandArgs) -> Result<ExitCode, CliError> {
    let (program, rest) = arguments.arguments.split_first().ok_or_else(|| CliError::usage("no program is named"))?;
    walser_service::process::end_with_parent_after_exec();
    let error = std::process::Command::new(program).args(rest).exec();
    Err(CliError::failed(format!("{}: {error}", program.display())))
}

async fn ask(arguments: &ClusterProcessArgs, action: ControlAction) -> Result<ExitCode, CliError> {
    let processes = asked(arguments, action).await?;
    processes.iter().for_each(|process| output::data(&format!("{} is {}", process.name(), process.state)));
    Ok(ExitCode::SUCCESS)
}

async fn asked(arguments: &ClusterProcessArgs, action: ControlAction) -> Result<Vec<ClusterProcess>, CliError> {
    let request = ControlRequest { action, role: arguments.role, id: arguments.id };
    control::ask(&arguments.place.dir, &request).await
}

/// Shows which processes there are; as JSON in the form of `cluster.json`.
async fn show(arguments: &ClusterStatusArgs) -> Result<ExitCode, CliError> {
    let processes = asked(&arguments.which, ControlAction::Status).await?;
    match arguments.output {
        Form::Table => output::data(&table(&processes)),
        Form::Json => output::document(&json!({ "processes": processes }))?,
        Form::Ndjson => processes.iter().for_each(|process| output::data(&json!(process).to_string())),
        Form::Name => processes.iter().for_each(|process| output::data(&process.name())),
    }
    Ok(ExitCode::SUCCESS)
}

/// A reader that is gone is no failure.
fn unless_unread(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
}

fn table(processes: &[ClusterProcess]) -> String {
    let rows: Vec<Vec<String>> = processes.iter().map(ClusterProcess::row).collect();
    output::table(&["ROLE", "ID", "STATE", "PID", "ADDRESS", "ADMIN", "LOG"], &rows)
}
