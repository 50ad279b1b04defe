//! What keeps partitions from being read.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use walser_client::{ApiError, Read, Reader};

use crate::error::CliError;
use crate::output;
use crate::server::Server;

/// The problems that people were told of, by topic and partition. There are no more than partitions.
#[derive(Debug)]
pub(super) struct Problems {
    known: BTreeMap<(String, i32), ApiError>,
    /// How long a read goes on without a record while a partition has a problem; `None`: for ever.
    patience: Option<Duration>,
    /// How long the server was waited for since the last record came, or the first problem.
    waited: Duration,
    /// The server is away: the reader waits for it, with a patience of its own.
    away: bool,
}

// === impl Problems ===

impl Problems {
    pub(super) fn new(patience: Option<Duration>) -> Self {
        Self { known: BTreeMap::new(), patience, waited: Duration::ZERO, away: false }
    }

    /// What the reader gives next. Where nothing comes for too long from partitions that are to be read to their end,
    /// an error that names them.
    pub(super) async fn next(&mut self, reader: &mut Reader, server: &Server) -> Result<Read, CliError> {
        let begun = Instant::now();
        let read = match self.patience.filter(|_| !self.known.is_empty() && !self.away) {
            Some(patience) => tokio::time::timeout(patience.saturating_sub(self.waited), reader.next()).await,
            None => Ok(reader.next().await),
        };
        let Ok(read) = read else { return Err(self.error(server)) };
        let read = read.map_err(|failure| server.failed(failure))?;
        if matches!(read, Read::Chunk(_)) || self.known.is_empty() {
            self.waited = Duration::ZERO;
        } else if !self.away {
            self.waited += begun.elapsed();
        }
        self.away = matches!(read, Read::Away(_));
        Ok(read)
    }

    /// Says what is wrong, unless it was said last of the partition: servers repeat those that last.
    pub(super) fn tell(&mut self, topic: &str, partition: i32, failure: ApiError) {
        let text = format!("{topic}/{partition}: {} ({})", failure.message(), failure.reason_name());
        if self.is_news(topic, partition, failure) {
            output::warning(&text);
        }
    }

    fn is_news(&mut self, topic: &str, partition: i32, failure: ApiError) -> bool {
        let reason = failure.reason();
        let before = self.known.insert((topic.to_owned(), partition), failure);
        before.is_none_or(|before| before.reason() != reason)
    }

    /// Records came: what was wrong is over.
    pub(super) fn over(&mut self, topic: &str, partition: i32) {
        if !self.known.is_empty() {
            self.known.remove(&(topic.to_owned(), partition));
        }
    }

    /// Everything was read that can be read now. Where all of it is wanted, that says nothing of the others.
    pub(super) fn caught_up(&mut self) {
        if self.patience.is_none() {
            self.known.clear();
        }
    }

    /// What is said when the end of a read cannot be reached.
    fn error(&mut self, server: &Server) -> CliError {
        /// Partitions that are named.
        const NAMED_MAX: usize = 5;
        let known = std::mem::take(&mut self.known);
        let names = known.keys().map(|(topic, partition)| format!("{topic}/{partition}"));
        let why = format!("not read to the end: {}", output::first_of(names, known.len(), NAMED_MAX));
        match known.into_values().next() {
            Some(failure) => server.failed(failure).with_why(why),
            None => CliError::failed(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use walser_client::Reason;

    use super::*;

    #[test]
    fn a_problem_is_told_once_until_it_changes_or_records_come() {
        let mut problems = Problems::new(None);
        let failure = |reason| ApiError::new(reason, "text");
        let (away, corrupt) = (Reason::LeaderNotAvailable, Reason::LogCorrupt);
        assert!(problems.is_news("t", 0, failure(away)) && !problems.is_news("t", 0, failure(away)));
        assert!(problems.is_news("t", 1, failure(away)), "of another partition");
        assert!(problems.is_news("t", 0, failure(corrupt)) && !problems.is_news("t", 0, failure(corrupt)));
        problems.over("t", 1);
        assert!(problems.is_news("t", 1, failure(away)) && !problems.is_news("t", 0, failure(corrupt)));
    }
}
