//! The members of etcd, one of which is asked at a time: the next one when it does not answer.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};
use parking_lot::RwLock;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::fault::Fault;
use super::{EtcdConfig, EtcdCredentials};
use crate::StoreError;

/// A member that has not answered within this time does not count.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// The same for signs of life, of which several fit into a lease.
pub(super) const SIGN_MAX: Duration = Duration::from_millis(700);
/// A connection that is there is given up when a ping is not answered in time. etcd ends connections on which more of them
/// come than one in 5 s, or any while nothing is asked.
const PING_EVERY: Duration = Duration::from_secs(6);
const PING_ANSWER_MAX: Duration = Duration::from_secs(2);
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// New credentials that a member does not take are tried again after this time; meanwhile the connection before goes on.
const RENEW_AGAIN: Duration = Duration::from_secs(5);

/// Whether what is asked for may be done twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It may: the next member is asked whatever became of it.
    Always,
    /// It may not: the next member is asked where it was not done.
    IfNotApplied,
}

struct Member {
    url: String,
    /// With a token, where a user is named.
    client: Mutex<Option<Connected>>,
}

/// A connection to a member.
struct Connected {
    client: Client,
    /// Which credentials it was made with.
    renewals: u64,
    /// When newer ones are tried, which the member has not taken before.
    renew_at: Instant,
}

/// How a connection is made.
struct Connecting {
    options: ConnectOptions,
    /// How often the credentials have been renewed.
    renewals: u64,
}

/// The members.
pub(super) struct Members {
    members: Vec<Member>,
    /// The one that is asked.
    current: AtomicUsize,
    connecting: RwLock<Arc<Connecting>>,
}

impl fmt::Debug for Members {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls = self.members.iter().map(|member| &member.url);
        formatter.debug_list().entries(urls).finish()
    }
}

impl Members {
    pub(super) fn new(config: &EtcdConfig) -> Result<Self, StoreError> {
        if config.endpoints.is_empty() {
            return Err(StoreError::Invalid("no endpoint of etcd is named".to_owned()));
        }
        let member = |url: &String| Member { url: url.clone(), client: Mutex::new(None) };
        let members = config.endpoints.iter().map(member).collect();
        let connecting = Connecting { options: options(&config.credentials), renewals: 0 };
        Ok(Self { members, current: AtomicUsize::new(0), connecting: RwLock::new(Arc::new(connecting)) })
    }

    pub(super) fn renew(&self, credentials: &EtcdCredentials) {
        let mut connecting = self.connecting.write();
        *connecting = Arc::new(Connecting { options: options(credentials), renewals: connecting.renewals + 1 });
    }

    /// Asks the members in turn, each once, beginning with the one that answered last.
    pub(super) async fn ask<T, F>(&self, repeat: Repeat, request: impl Fn(Client) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.ask_within(ANSWER_MAX, repeat, request).await
    }

    /// The same, with a time for the answer of each.
    pub(super) async fn ask_within<T, F>(
        &self,
        answer_max: Duration,
        repeat: Repeat,
        request: impl Fn(Client) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut last = Fault::Elsewhere("no member answers".to_owned());
        for _ in 0..self.members.len() {
            let number = self.current.load(Ordering::Relaxed);
            let member = &self.members[number % self.members.len()];
            match self.ask_member(member, answer_max, &request).await {
                Ok(answer) => return Ok(answer),
                Err(fault @ (Fault::Elsewhere(_) | Fault::Unknown(_) | Fault::Token(_))) => {
                    // Whoever was asked at the same time may have moved on already.
                    let next = number.wrapping_add(1);
                    let _ = self.current.compare_exchange(number, next, Ordering::Relaxed, Ordering::Relaxed);
                    let applied = matches!(fault, Fault::Unknown(_));
                    last = fault;
                    if applied && repeat == Repeat::IfNotApplied {
                        break;
                    }
                }
                Err(fault) => return Err(fault),
            }
        }
        Err(last)
    }

    /// Each member by itself: its endpoint, and what it answers.
    pub(super) async fn each<T, F>(&self, request: impl Fn(Client) -> F) -> Vec<(&str, Result<T, Fault>)>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut answers = Vec::with_capacity(self.members.len());
        for member in &self.members {
            answers.push((member.url.as_str(), self.ask_member(member, ANSWER_MAX, &request).await));
        }
        answers
    }

    async fn ask_member<T, F>(
        &self,
        member: &Member,
        answer_max: Duration,
        request: &impl Fn(Client) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let (client, renewals) = within(answer_max, self.connected(member)).await.map_err(not_sent)?;
        let fault = match within(answer_max, request(client.clone())).await {
            Err(fault @ Fault::Token(_)) => fault,
            answer => return answer,
        };
        // Seldom, and large.
        Box::pin(self.ask_with_other_token(member, answer_max, request, (client, renewals), fault)).await
    }

    /// Asks once more, with another token, where there is one. Simple tokens die with idleness, and with the member that
    /// gave them. The client renews them too, if it is asked to, but not for what a stream answers.
    async fn ask_with_other_token<T, F>(
        &self,
        member: &Member,
        answer_max: Duration,
        request: &impl Fn(Client) -> F,
        (client, renewals): (Client, u64),
        fault: Fault,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Error>>,
    {
        if within(answer_max, client.refresh_token()).await.is_ok() {
            return within(answer_max, request(client)).await;
        }
        // The password may be another one by now: newer credentials are tried at once.
        if let Some(connected) = member.client.lock().await.as_mut() {
            connected.renew_at = Instant::now();
        }
        match within(answer_max, self.connected(member)).await.map_err(not_sent)? {
            (client, newer) if newer > renewals => within(answer_max, request(client)).await,
            _ => Err(fault),
        }
    }

    /// The connection to a member: with the credentials of now, or, as long as the member does not take those, with the ones
    /// before; and how often they had been renewed. Files are replaced before etcd knows of it, or wrongly: neither may cost
    /// a connection that works.
    async fn connected(&self, member: &Member) -> Result<(Client, u64), Error> {
        let mut connected = member.client.lock().await;
        let connecting = Arc::clone(&self.connecting.read());
        if let Some(connected) = connected.as_mut() {
            if connected.renewals == connecting.renewals || connected.renew_at > Instant::now() {
                return Ok((connected.client.clone(), connected.renewals));
            }
            // Before the attempt, which may be given up.
            connected.renew_at = Instant::now() + RENEW_AGAIN;
        }
        // The future of it is large.
        match Box::pin(connect(&member.url, &connecting.options, connected.is_some())).await {
            Ok(client) => {
                let (renewals, renew_at) = (connecting.renewals, Instant::now());
                if connected.replace(Connected { client: client.clone(), renewals, renew_at }).is_some() {
                    tracing::info!(member = member.url, "the new certificates or the new password of etcd are in use");
                }
                Ok((client, renewals))
            }
            Err(error) => {
                let Some(before) = connected.as_ref() else { return Err(error) };
                tracing::warn!(
                    member = member.url, %error,
                    "etcd does not take the new certificates or the new password: the connection before goes on"
                );
                Ok((before.client.clone(), before.renewals))
            }
        }
    }
}

/// Connects to a member. `proven`: it has answered then, and so taken certificates as well, which a new connection shows only
/// with its first request.
async fn connect(url: &str, options: &ConnectOptions, proven: bool) -> Result<Client, Error> {
    let mut client = Client::connect([url], Some(options.clone())).await?;
    if proven {
        client.status().await?;
    }
    Ok(client)
}

/// Whatever became of connecting, the request was not sent, and a member that is connected may take it.
fn not_sent(fault: Fault) -> Fault {
    match fault {
        Fault::Unknown(text) | Fault::Refused(text) => Fault::Elsewhere(text),
        fault => fault,
    }
}

async fn within<T>(limit: Duration, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Fault> {
    let late = |_| Fault::Unknown(format!("no answer within {} ms", limit.as_millis()));
    tokio::time::timeout(limit, answer).await.map_err(late)?.map_err(|error| Fault::of(&error))
}

fn options(credentials: &EtcdCredentials) -> ConnectOptions {
    let mut options = ConnectOptions::new()
        .with_keep_alive(PING_EVERY, PING_ANSWER_MAX)
        .with_keep_alive_while_idle(false)
        .with_connect_timeout(CONNECT_MAX)
        .with_require_leader(true);
    if let Some((user, password)) = &credentials.user {
        options = options.with_user(user, password);
    }
    if let Some(tls) = &credentials.tls {
        let mut of_tls = TlsOptions::new().ca_certificate(Certificate::from_pem(&tls.ca));
        if let Some((certificate, key)) = &tls.identity {
            of_tls = of_tls.identity(Identity::from_pem(certificate, key));
        }
        options = options.with_tls(of_tls);
    }
    options
}
