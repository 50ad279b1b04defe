//! Clients that commit and read while the log acknowledges late, in any order, not at all, or refuses.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

const SEEDS: u64 = 50;
const GROUPS: usize = 4;
const COMMITS: i64 = 100;

/// A small generator: tests name the seed with which they fail.
#[derive(Debug)]
struct Seeded(AtomicU64);

impl Seeded {
    /// Below `end`.
    fn below(&self, end: u64) -> u64 {
        let next = self.0.load(Ordering::Relaxed).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.0.store(next, Ordering::Relaxed);
        (next >> 33) % end
    }
}

/// Makes trouble until the clients are done.
async fn trouble(log: MemoryLog, random: Arc<Seeded>, done: Arc<AtomicBool>) {
    log.hold();
    while !done.load(Ordering::Relaxed) {
        let waiting = log.untold();
        let number = usize::try_from(random.below(waiting.len().max(1) as u64)).unwrap();
        match (random.below(40), waiting.get(number)) {
            (0, _) => log.refuse(1),
            (1, Some(number)) => log.tell(*number, Err(ApiError::new(Reason::LeaderLostAfterAppend, "lost"))),
            (2..30, Some(number)) => log.tell(*number, Ok(())),
            _ => tokio::time::sleep(Duration::from_millis(random.below(3))).await,
        }
        yield_now().await;
    }
    log.go_on();
}

/// Commits one offset after the other, and reads now and then: neither what was acknowledged nor what was read goes back.
async fn client(shard: ShardHandle, group: String, random: Arc<Seeded>) -> (i64, u64) {
    let (mut known, mut failures) = (0, 0);
    for offset in 1..=COMMITS {
        let commit = simple_commit(&group, offset);
        let handle = |shard: &mut GroupShard, now, out: &mut _| shard.commit(now, commit, out).map_err(refused);
        match shard.ask(None, handle).await {
            Ok(refused) => {
                assert_eq!(refused, []);
                known = offset;
            }
            Err(failure) => {
                assert_eq!(failure.reason(), Reason::CoordinatorNotAvailable);
                failures += 1;
                tokio::time::sleep(Duration::from_millis(random.below(30))).await;
            }
        }
        let of = group.parse().unwrap();
        let read = move |shard: &mut GroupShard, _, _: &mut _| {
            Ok(shard.committed(&of, &partition(0)).map_or(0, |found| found.offset.0))
        };
        if let Ok(found) = shard.ask(None, read).await {
            assert!((known..=offset).contains(&found), "{found} was read, and {known} was known");
            known = found;
        }
    }
    (known, failures)
}

#[tokio::test(start_paused = true)]
async fn neither_what_was_acknowledged_nor_what_was_read_goes_back() {
    let (mut failures, mut replays) = (0, 0);
    for seed in 0..SEEDS {
        let random = Arc::new(Seeded(AtomicU64::new(seed)));
        let done = Arc::new(AtomicBool::new(false));
        let tested = Tested::new(&MemoryLog::default(), 1).loaded().await;
        let troubled = tokio::spawn(trouble(tested.log.clone(), Arc::clone(&random), Arc::clone(&done)));
        let clients = (0..GROUPS).map(|group| client(tested.shard.clone(), format!("g{group}"), Arc::clone(&random)));
        let known = futures::future::join_all(clients).await;
        done.store(true, Ordering::Relaxed);
        troubled.await.unwrap();
        let tested = tested.loaded().await;
        for (group, (known, failed)) in known.into_iter().enumerate() {
            let found = tested.committed(&format!("g{group}")).await.unwrap_or(0);
            assert!(found >= known, "seed {seed}: {known} was known, and {found} is there");
            failures += failed;
        }
        assert!(tested.replays().await, "seed {seed}");
        replays += tested.log.opened() - 1;
    }
    assert!(failures > 1_000 && replays > 100, "{failures} failures, {replays} replays: too little trouble");
}
