//! How a command talks TLS: by flags, the environment or the context, in this order.

use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};
use walser_client::Client;
use walser_tls::{ClientTls, ClientTlsFiles};

use crate::error::CliError;

/// What is said about TLS. Empty: it is not used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsArgs {
    /// Use TLS; without --tls-ca, with the authorities of the system [env: WALSER_TLS=true]
    #[arg(long, help_heading = "TLS")]
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) tls: bool,
    /// Use TLS, and believe the authorities in FILE, as PEM [env: WALSER_TLS_CA]
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Certificate of this client, as PEM, for a server that asks for one [env: WALSER_TLS_CERT]
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key of that certificate, as PEM [env: WALSER_TLS_KEY]
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tls_key: Option<PathBuf>,
    /// The name in the server's certificate, where it is not the host of --server [env: WALSER_TLS_SERVER_NAME]
    #[arg(long, value_name = "NAME", help_heading = "TLS")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tls_server_name: Option<String>,
}

/// A client of a server. Nothing is connected yet.
///
/// # Errors
/// When the address cannot be one.
pub(crate) fn client(address: &str, tls: Option<ClientTls>) -> Result<Client, CliError> {
    Ok(match tls {
        Some(tls) => Client::with_tls(address, tls)?,
        None => Client::new(address)?,
    })
}

// === impl TlsArgs ===

impl TlsArgs {
    /// What holds of these flags, the environment and a context, in this order; `WALSER_TLS=false` turns off what only the
    /// last two say.
    ///
    /// # Errors
    /// When WALSER_TLS is neither true nor false.
    pub(crate) fn or_environment(self, context: Self) -> Result<Self, CliError> {
        self.or_variables(|name| std::env::var(name).ok().filter(|value| !value.is_empty()), context)
    }

    fn or_variables(self, variable: impl Fn(&str) -> Option<String>, context: Self) -> Result<Self, CliError> {
        let tls = match variable("WALSER_TLS").as_deref() {
            Some("false" | "0") if self.is_unused() => return Ok(self),
            None | Some("false" | "0") => false,
            Some("true" | "1") => true,
            Some(other) => return Err(CliError::usage(format!("WALSER_TLS is \"{other}\"; it is true or false"))),
        };
        let environment = Self {
            tls,
            tls_ca: variable("WALSER_TLS_CA").map(PathBuf::from),
            tls_cert: variable("WALSER_TLS_CERT").map(PathBuf::from),
            tls_key: variable("WALSER_TLS_KEY").map(PathBuf::from),
            tls_server_name: variable("WALSER_TLS_SERVER_NAME"),
        };
        Ok(self.or(environment).or(context))
    }

    /// With `other` for what is not said here.
    fn or(self, other: Self) -> Self {
        Self {
            tls: self.tls || other.tls,
            tls_ca: self.tls_ca.or(other.tls_ca),
            tls_cert: self.tls_cert.or(other.tls_cert),
            tls_key: self.tls_key.or(other.tls_key),
            tls_server_name: self.tls_server_name.or(other.tls_server_name),
        }
    }

    /// Whether TLS is used.
    pub(crate) fn is_used(&self) -> bool {
        *self != Self::default()
    }

    /// Whether nothing is said about it.
    pub(crate) fn is_unused(&self) -> bool {
        !self.is_used()
    }

    /// The same with paths that hold wherever they are read from.
    ///
    /// # Errors
    /// When the current directory is not known.
    pub(crate) fn absolute(self) -> Result<Self, CliError> {
        let absolute = |path: Option<PathBuf>| path.map(std::path::absolute).transpose();
        let (tls_ca, tls_cert, tls_key) = (absolute(self.tls_ca)?, absolute(self.tls_cert)?, absolute(self.tls_key)?);
        Ok(Self { tls_ca, tls_cert, tls_key, ..self })
    }

    /// A client of a server that is talked to so. Nothing is connected yet.
    ///
    /// # Errors
    /// As for [`Self::load`], and when the address cannot be one.
    pub(crate) fn client(&self, address: &str) -> Result<Client, CliError> {
        client(address, self.load()?)
    }

    /// Reads what is named. `None`: TLS is not used.
    ///
    /// # Errors
    /// When a file cannot be used, or one of a pair is missing.
    pub(crate) fn load(&self) -> Result<Option<ClientTls>, CliError> {
        if !self.is_used() {
            return Ok(None);
        }
        let own = match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            (None, None) => None,
            (Some(_), None) => return Err(CliError::usage("--tls-cert is of no use without --tls-key")),
            (None, Some(_)) => return Err(CliError::usage("--tls-key is of no use without --tls-cert")),
        };
        let files = ClientTlsFiles { ca: self.tls_ca.clone(), own, server_name: self.tls_server_name.clone() };
        let loaded = ClientTls::load(&files).map_err(|error| {
            let failed = CliError::usage(format!("TLS: {error}"));
            match self.tls_ca {
                Some(_) => failed,
                None => failed.with_help("name the authority of the server with --tls-ca FILE"),
            }
        });
        loaded.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_first_holds() {
        let flags = TlsArgs { tls_ca: Some("a.pem".into()), ..TlsArgs::default() };
        let context =
            TlsArgs { tls_ca: Some("b.pem".into()), tls_server_name: Some("x".to_owned()), ..TlsArgs::default() };
        let both = flags.or(context);
        assert_eq!((both.tls_ca, both.tls_server_name), (Some("a.pem".into()), Some("x".to_owned())));
        assert!(!TlsArgs::default().is_used());
    }

    #[test]
    fn the_environment_turns_off_what_no_flag_says() {
        let of = |pairs: &[(&str, &str)], flags: TlsArgs| {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let variable =
                move |name: &str| pairs.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone());
            flags.or_variables(variable, TlsArgs { tls_ca: Some("context.pem".into()), ..TlsArgs::default() })
        };
        let (off, ca) = (("WALSER_TLS", "false"), ("WALSER_TLS_CA", "environment.pem"));
        assert_eq!(of(&[ca], TlsArgs::default()).unwrap().tls_ca, Some("environment.pem".into()));
        assert!(of(&[off, ca], TlsArgs::default()).unwrap().is_unused());
        let flags = of(&[off], TlsArgs { tls: true, ..TlsArgs::default() }).unwrap();
        assert_eq!((flags.tls, flags.tls_ca), (true, Some("context.pem".into())));
        assert!(of(&[("WALSER_TLS", "maybe")], TlsArgs::default()).unwrap_err().what().contains("maybe"));
    }

    #[test]
    fn half_a_pair_and_missing_files_are_told() {
        let half = TlsArgs { tls_cert: Some("a.pem".into()), ..TlsArgs::default() };
        assert!(half.load().unwrap_err().what().contains("--tls-key"));
        let missing = TlsArgs { tls_ca: Some("/nowhere/ca.pem".into()), ..TlsArgs::default() };
        assert!(missing.load().unwrap_err().what().contains("/nowhere/ca.pem"));
        assert!(TlsArgs::default().load().unwrap().is_none());
    }
}
