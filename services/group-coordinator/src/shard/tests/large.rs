//! Many members, many commits.

use walser_group::{GroupDescription, GroupEpoch};

use super::*;

const GROUPS: usize = 1_000;
const MEMBERS: usize = 10;

/// What every group is, and its first offset.
async fn described(tested: &Tested) -> Vec<(GroupDescription, Option<i64>)> {
    let describe = |shard: &mut GroupShard, _, _: &mut _| {
        let groups: Vec<_> = shard.groups(None).map(|summary| summary.group).collect();
        let described = groups.into_iter().map(|group| {
            let committed = shard.committed(&group, &partition(0)).map(|committed| committed.offset.0);
            Ok((shard.describe(&group).map_err(refused)?, committed))
        });
        described.collect::<Result<Vec<_>, ApiError>>()
    };
    tested.shard.ask(None, describe).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_members_of_a_thousand_groups_are_there_after_a_restart() {
    let log = MemoryLog::default();
    let tested = Tested::new(&log, 10).loaded().await;
    for number in 0..GROUPS * MEMBERS {
        let (group, member) = (format!("g{}", number % GROUPS), format!("m{number}"));
        let join = join(&group, &member);
        let handle = |shard: &mut GroupShard, now, out: &mut _| shard.join(now, join, out).map_err(refused);
        tested.shard.submit(None, handle, |attached| assert!(attached.is_ok())).await;
    }
    // Gateways that say that they are there, until all is settled.
    for _ in 0..10 {
        let heard = |shard: &mut GroupShard, now, _: &mut _| {
            shard.gateway_heartbeat(now, &"gateway".parse().unwrap());
            Ok(())
        };
        tested.shard.ask(None, heard).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let release = |shard: &mut GroupShard, now, out: &mut _| {
        let groups: Vec<_> = shard.groups(None).map(|summary| summary.group).collect();
        for group in groups {
            for member in shard.describe(&group).map_err(refused)?.members {
                let attachment = walser_group::AttachmentNumber(0);
                let of = MemberRef { group: group.clone(), member: member.member, instance: None, attachment };
                assert!(shard.release(now, &of, &member.current.revoking, out).is_err(), "not its attachment");
            }
        }
        Ok(())
    };
    tested.shard.ask(None, release).await.unwrap();
    assert!(tested.replays().await);
    let before = described(&tested).await;
    assert_eq!((before.len(), before.iter().map(|(group, _)| group.members.len()).sum::<usize>()), (GROUPS, 10_000));
    tested.stop().await;
    let after = Tested::new(&log, 10).loaded().await;
    assert_eq!(described(&after).await, before, "a restart moves nothing");
}

/// Commits of one member, one behind the other; returns in how many batches they were written.
async fn committed_in(commits: i64) -> usize {
    let log = MemoryLog::default();
    let tested = Tested::new(&log, 1).loaded().await;
    let member = tested.join("g", "m").await.unwrap();
    let of = member.clone();
    let current = tested.shard.ask(None, move |shard, now, _| shard.heartbeat(now, &of).map_err(refused)).await;
    assert_eq!(current.unwrap().epoch, GroupEpoch(1));
    let begun = log.batch_count();
    let (told, mut answers) = tokio::sync::mpsc::channel(10_000);
    for offset in 1..=commits {
        let author = Some(author(&member, GroupEpoch(1), offset));
        let commit = Commit { author, ..simple_commit("g", offset) };
        let handle = |shard: &mut GroupShard, now, out: &mut _| shard.commit(now, commit, out).map_err(refused);
        let told = told.clone();
        tested.shard.submit(None, handle, move |answer| told.try_send((offset, answer)).unwrap()).await;
    }
    for offset in 1..=commits {
        let (answered, refused) = answers.recv().await.unwrap();
        assert_eq!((answered, refused), (offset, Ok(Vec::new())));
    }
    assert_eq!(tested.committed("g").await, Some(commits));
    let batches = log.batch_count() - begun;
    tested.stop().await;
    let after = Tested::new(&log, 1).loaded().await;
    assert_eq!(after.committed("g").await, Some(commits));
    batches
}

#[tokio::test(start_paused = true)]
async fn commits_that_come_at_once_are_written_together() {
    assert_eq!(committed_in(1).await, 1);
    for commits in [1_000, 10_000] {
        let batches = i64::try_from(committed_in(commits).await).unwrap();
        assert!(batches <= commits / 20, "{commits} commits in {batches} batches");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_larger_than_a_batch_is_written_in_several() {
    let log = MemoryLog::default();
    let tested = Tested::new(&log, 5_000).loaded().await;
    let offset = |number| OffsetToCommit {
        partition: partition(number),
        offset: Offset(number.into()),
        leader_epoch: None,
        metadata: "x".repeat(4_096),
    };
    let commit = Commit { offsets: (0..5_000).map(offset).collect(), ..simple_commit("g", 0) };
    let begun = log.batch_count();
    let done = tested.shard.ask(None, |shard, now, out| shard.commit(now, commit, out).map_err(refused)).await;
    assert_eq!(done.unwrap(), []);
    assert_eq!(log.batch_count() - begun, 3, "20 MB in batches of 8 MiB");
    assert!(tested.replays().await);
}
