//! The server that a command talks to: which one it is, and what its answers mean to people.

use std::collections::HashMap;

use walser_client::{ApiError, Client, Reason};
use walser_proto::v1 as pb;
use walser_service::telemetry;
use walser_tls::ClientTls;

use crate::args::ServerArgs;
use crate::context::Contexts;
use crate::error::CliError;
use crate::tls_args::{self, TlsArgs};

/// Where a server is that nobody names.
const ADDRESS_DEFAULT: &str = "127.0.0.1:7460";

/// A server that calls can be made to.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) client: Client,
    pub(crate) address: String,
    /// The context that names it, if one does.
    pub(crate) context: Option<String>,
    /// `None`: connections are plain.
    pub(crate) tls: Option<ClientTls>,
}

// === impl Server ===

impl Server {
    /// The server that the flags, the environment or the current context name. Nothing is connected yet.
    pub(crate) fn of(arguments: &ServerArgs) -> Result<Self, CliError> {
        let (address, context, tls) = address(arguments)?;
        if let Some((scheme, rest)) = address.split_once("://") {
            let error = CliError::usage(format!("server address \"{address}\" begins with {scheme}://"));
            return Err(error.with_help(format!("write it as HOST:PORT: {}", rest.trim_end_matches('/'))));
        }
        let tls = tls.load()?;
        let client = tls_args::client(&address, tls.clone())?;
        let client = match telemetry::sampled_here() {
            Some(traceparent) => client.in_trace(&traceparent),
            None => client,
        };
        Ok(Self { client, address, context, tls })
    }

    /// The answer, or the error as people see it.
    pub(crate) fn answered<T>(&self, answer: Result<tonic::Response<T>, tonic::Status>) -> Result<T, CliError> {
        answer.map(tonic::Response::into_inner).map_err(|status| self.failed(status))
    }

    /// The answer about a topic. `None`: it is gone, and only a pattern has named it.
    pub(crate) fn answered_of<T>(
        &self,
        named: bool,
        answer: Result<tonic::Response<T>, tonic::Status>,
    ) -> Result<Option<T>, CliError> {
        match answer.map_err(ApiError::from) {
            Ok(answer) => Ok(Some(answer.into_inner())),
            Err(failure) if !named && failure.reason() == Reason::TopicNotFound => Ok(None),
            Err(failure) => Err(self.failed(failure)),
        }
    }

    /// The settings of the cluster.
    pub(crate) async fn cluster_configs(&self) -> Result<Vec<pb::ConfigEntry>, CliError> {
        let request = pb::ListClusterConfigsRequest::default();
        Ok(self.answered(self.client.cluster().list_cluster_configs(request).await)?.configs)
    }

    /// Changes settings of the cluster, or only looks whether it could. The settings that have another value then, with it.
    pub(crate) async fn change_cluster_config(
        &self,
        updates: HashMap<String, String>,
        reset_names: Vec<String>,
        validate_only: bool,
    ) -> Result<Vec<(String, String)>, CliError> {
        let request = pb::UpdateClusterConfigRequest { updates, reset_names, validate_only };
        let changed = self.client.cluster().update_cluster_config(request).await;
        let wrong = changed.as_ref().is_err_and(|status| status.code() == tonic::Code::InvalidArgument);
        let changed = self.answered(changed).map_err(|error| match wrong {
            true => error.with_help("`walser cluster config list` shows what can be set"),
            false => error,
        })?;
        Ok(changed.configs.into_iter().map(|entry| (entry.name, entry.value)).collect())
    }

    /// An error of this server as people see it.
    pub(crate) fn failed(&self, failure: impl Into<ApiError>) -> CliError {
        CliError::server(failure.into(), &self.address)
    }
}

/// How many storage nodes a cluster knows. `None`: it gives no answer.
pub(crate) async fn node_count(client: &Client) -> Option<usize> {
    let listed = client.cluster().list_nodes(walser_proto::v1::ListNodesRequest::default()).await;
    listed.ok().map(|listed| listed.into_inner().nodes.len())
}

/// The address by flag, environment, or context, in this order, the context, and how TLS is used with it.
fn address(arguments: &ServerArgs) -> Result<(String, Option<String>, TlsArgs), CliError> {
    let (address, context, tls_of_context) = named(arguments)?;
    Ok((address, context, arguments.tls.clone().or_environment(tls_of_context)?))
}

/// The address, the context, and what that says of TLS.
fn named(arguments: &ServerArgs) -> Result<(String, Option<String>, TlsArgs), CliError> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let tls = TlsArgs::default();
    if let Some(server) = &arguments.server {
        return Ok((server.clone(), None, tls));
    }
    if arguments.context.is_none()
        && let Some(server) = variable("WALSER_SERVER")
    {
        return Ok((server, None, tls));
    }
    let contexts = Contexts::load()?;
    let name = match arguments.context.clone().or_else(|| variable("WALSER_CONTEXT")) {
        Some(name) => name,
        None => match contexts.current()? {
            Some((name, _)) => name.to_owned(),
            None => return Ok((ADDRESS_DEFAULT.to_owned(), None, tls)),
        },
    };
    Ok((contexts.server(&name)?.to_owned(), Some(name.clone()), contexts.tls(&name)))
}
