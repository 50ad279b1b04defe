//! One program: the whole server in one process (`walser up`), and the command line for any server.

mod admin_port;
mod args;
mod candidates;
mod cli;
mod command;
mod complete;
mod context;
mod error;
mod http1;
mod input;
mod message;
mod names;
mod output;
mod position;
mod progress;
mod records;
mod server;
mod signal;
mod standalone;
mod tls_args;
mod topics;
mod window;
mod words;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use clap_complete::CompleteEnv;

use crate::cli::{Cli, Command};
use crate::error::CliError;

/// Runs the program with the arguments of the process.
pub fn run() -> ExitCode {
    // A shell that asks for completions gets them, and the program ends.
    CompleteEnv::with_factory(Cli::command).var(command::completion::VARIABLE).complete();
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Up(arguments) => standalone::run(&arguments),
        Command::Cluster(command) => command::cluster::run(command),
        Command::Controller(service) => Ok(walser_controller::main(service.with_name("walser controller"))),
        Command::StorageNode(service) => Ok(walser_storage_node::main(service.with_name("walser storage-node"))),
        Command::GroupCoordinator(service) => {
            Ok(walser_group_coordinator::main(service.with_name("walser group-coordinator")))
        }
        Command::Gateway(service) => Ok(walser_gateway::main(service.with_name("walser gateway"))),
        Command::Proto(arguments) => command::proto::run(&arguments),
        Command::Log(arguments) => command::log::run(&arguments),
        Command::Completion(arguments) => command::completion::run(&arguments),
        Command::Context(command) => command::context::run(command),
        Command::Tls(command) => command::tls::run(command),
        remote => run_remote(remote),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => error.report(),
    }
}

fn run_remote(command: Command) -> Result<ExitCode, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build();
    let runtime = runtime.map_err(|error| CliError::failed(format!("no runtime: {error}")))?;
    let outcome = runtime.block_on(async {
        // These end what they have begun first, and say how far they have come.
        let ends_itself = match &command {
            Command::Produce(_) | Command::Bench(_) => true,
            Command::Consume(consume) => consume.group.is_some(),
            Command::Topic(topic) => topic.ends_itself(),
            Command::Node(node) => node.ends_itself(),
            _ => false,
        };
        let running = command::remote(command);
        let outcome = if ends_itself {
            running.await
        } else {
            let mut interrupts = signal::Interrupts::listen()?;
            // On a thread of its own: this one may be held by output that nobody takes.
            tokio::spawn(async move {
                let interrupt = interrupts.next().await;
                progress::clear();
                std::process::exit(i32::from(interrupt.exit_code()));
            });
            running.await
        };
        match outcome {
            Ok(code) => Ok(code),
            Err(error) => Err(error.looked_into().await),
        }
    });
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    outcome
}
