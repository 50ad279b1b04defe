//! The look at the disk and at the partitions, once a second: what the probe says, what the metrics show, and marks that
//! are made durable now and then.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use walser_log::NamesById;
use walser_model::TopicId;
use walser_service::Shutdown;
use walser_service::admin::Health;

use crate::engine::Engine;
use crate::metrics::StorageMetrics;
use crate::node::Membership;
use crate::replica_registry::ReplicaRegistry;
use crate::shard::Command;

/// How often the disk is looked at.
const SPACE_CHECK: Duration = Duration::from_secs(1);
/// How often written marks are made durable by themselves, and the directories of partitions are looked for.
const MARKS_SYNC: Duration = Duration::from_secs(5);
/// Partitions out of service that the probe names.
const NAMED_MAX: usize = 20;

/// What the probe of a node says that may be fenced.
const UNHEARD: &str = "no controller has answered this node for as long as its session lasts: it may be fenced, and others \
                       may lead what it led";

/// Shows the state of the node in its probe. Only what concerns the node as a whole keeps it from being ready: a
/// partition that is out of service, or a full disk, leaves everything else to be served.
pub(crate) fn show(health: &Health, membership: &Membership) {
    let Membership { registry, engine, settling, view, .. } = membership;
    let refused = registry.writes_refused().map(|failure| format!("{}: {failure}", failure.reason_name()));
    let path = engine.directory.path().display();
    let unusable = engine.problem().map(|problem| format!("data directory {path}: {problem}"));
    let settling = settling.problem(&view.load());
    // Without its directory it notes no metadata, and is not up to date with the controller for that.
    let unheard = (unusable.is_none() && membership.is_unheard()).then(|| UNHEARD.to_owned());
    health.set_problems(refused.into_iter().chain(unusable).chain(unheard).chain(settling).collect());
    let full =
        engine.space.full().then(|| "disk full: records are refused, reading and deleting still work".to_owned());
    let problems = registry.problems();
    let named = problems.iter().take(NAMED_MAX);
    let named = named.map(|(id, problem)| format!("partition {}: {}", registry.names.partition(*id), problem.text));
    let more = problems.len().saturating_sub(NAMED_MAX);
    let more = (more > 0).then(|| format!("and {more} more partitions are out of service"));
    health.set_notes(full.into_iter().chain(named).chain(more).collect());
}

/// Looks at free space and failed partitions until the stop.
pub(crate) async fn watch(membership: Membership, (health, metrics): (Health, StorageMetrics), shutdown: Shutdown) {
    let directory = Arc::clone(&membership.engine.directory);
    if let Err(error) = directory.take_ballast() {
        tracing::warn!(%error, "the ballast could not be taken");
    }
    let mut ticks = tokio::time::interval(SPACE_CHECK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut since_sync = Duration::ZERO;
    let mut written = WrittenNames { names: directory.topic_names(), ..WrittenNames::default() };
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.wait() => return write_names(&membership, &mut written).await,
        }
        since_sync += SPACE_CHECK;
        let sync = since_sync >= MARKS_SYNC;
        if sync {
            since_sync = Duration::ZERO;
        }
        let (engine, registry) = (membership.engine.clone(), membership.registry.clone());
        let look = move || {
            engine.look(sync);
            if sync {
                look_for_partitions(&engine, &registry);
            }
        };
        let looking = async {
            write_names(&membership, &mut written).await;
            tokio::task::spawn_blocking(look).await
        };
        tokio::pin!(looking);
        // A disk that hangs is shown, too.
        let looked = loop {
            tokio::select! {
                biased;
                looked = &mut looking => break looked,
                () = tokio::time::sleep(SPACE_CHECK) => show_all(&membership, &health, &metrics),
            }
        };
        if let Err(error) = looked
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
        show_all(&membership, &health, &metrics);
    }
}

/// Has shards look for the files of partitions whose directories are not there: somebody has removed them, and what is appended
/// to files that are open goes where nobody finds it. Blocks as long as the disk takes.
fn look_for_partitions(engine: &Engine, registry: &ReplicaRegistry) {
    let Engine { directory, shards, .. } = engine;
    // Without a directory it is that what is wrong, which is told; one that was removed looks empty.
    if engine.problem().is_some() {
        return;
    }
    let with_records = registry.all().into_iter().filter(|(_, replica)| replica.reader.size_bytes() > 0);
    let with_records: Vec<_> = with_records.map(|(partition, _)| partition).collect();
    // Without a listing the directory as a whole is what is wrong, which is told.
    let Ok(there) = directory.partitions() else { return };
    for partition in with_records {
        if there.binary_search_by_key(&partition, |found| found.partition).is_err() {
            shards.queue(partition).push(Command::FileMissing(partition));
        }
    }
}

fn show_all(membership: &Membership, health: &Health, metrics: &StorageMetrics) {
    show(health, membership);
    show_metrics(membership, metrics);
}

/// The names of topics that the data directory has.
#[derive(Debug, Default)]
struct WrittenNames {
    names: NamesById,
    /// Metadata version, and numbers of partitions, when they were looked at last: names change with these only.
    seen: (i64, usize, usize),
}

/// Writes down the names of the topics that lie here, when they have changed.
async fn write_names(Membership { registry, engine, .. }: &Membership, written: &mut WrittenNames) {
    let directory = &engine.directory;
    let seen = (directory.metadata_seen().version, registry.len(), directory.set_aside_partitions().len());
    if seen == written.seen {
        return;
    }
    let aside = directory.set_aside_partitions().into_iter().map(|aside| aside.partition);
    let here = registry.all().into_iter().map(|(partition, _)| partition);
    let topics: BTreeSet<TopicId> = here.chain(aside).map(|partition| partition.topic).collect();
    let names = registry.names.of(&topics);
    if names != written.names {
        let (directory, writing) = (Arc::clone(directory), names.clone());
        match tokio::task::spawn_blocking(move || directory.write_topic_names(&writing)).await {
            Ok(Ok(())) => written.names = names,
            // The next look tries again.
            Ok(Err(error)) => return tracing::debug!(%error, "the names of topics cannot be written down"),
            Err(_panicked) => return,
        }
    }
    written.seen = seen;
}

fn show_metrics(membership: &Membership, metrics: &StorageMetrics) {
    let Membership { registry, engine, .. } = membership;
    let Engine { directory, space: guard, stalls, .. } = engine;
    let aside = directory.set_aside_partitions();
    metrics.set_aside(aside.len(), aside.iter().map(|aside| aside.size_bytes).sum());
    let replicas = registry.all();
    let log_bytes = replicas.iter().map(|(_, replica)| replica.reader.size_bytes()).sum();
    let lags: Vec<_> = replicas.iter().flat_map(|(_, replica)| replica.lags()).collect();
    let furthest = lags.iter().filter_map(|lag| lag.offsets).max().unwrap_or(0);
    metrics.replication_lag(furthest, lags.iter().map(|lag| lag.behind).max().unwrap_or_default());
    metrics.logs(registry.problems().len(), log_bytes);
    metrics.metadata_version(membership.applied.load().version);
    metrics.disk_failed(engine.problem().is_some());
    metrics.disk_stall(stalls.seconds());
    let space = guard.seen();
    metrics.disk(space, guard.reserve_of(space.total), guard.full());
}
