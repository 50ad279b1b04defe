//! Arguments that many commands have.

use clap::{Args, ValueEnum};
use clap_complete::engine::ArgValueCompleter;

use crate::candidates;
use crate::tls_args::TlsArgs;

#[derive(Debug, Clone, Args)]
pub(crate) struct ServerArgs {
    /// Address of the server, one [env: WALSER_SERVER] [default: that of the context, else 127.0.0.1:7460]
    #[arg(short = 's', long, value_name = "HOST:PORT")]
    pub(crate) server: Option<String>,
    /// A server by its name, see `walser context` [env: WALSER_CONTEXT]
    #[arg(long, value_name = "NAME", conflicts_with = "server", add = ArgValueCompleter::new(candidates::contexts))]
    pub(crate) context: Option<String>,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// For people
    Table,
    /// One JSON document, as the proto files define it
    Json,
    /// One JSON object on a line for each
    Ndjson,
    /// Names, one on a line
    Name,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct OutputArgs {
    /// Form of the output
    #[arg(short = 'o', long, value_name = "FORM", default_value = "table")]
    pub(crate) output: Form,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}
