//! Replicas to which something happens that the protocol does not foresee: answers that never come, work that fails, damage.

use walser_model::Timestamp;
use walser_replication::{Diverging, ReplicationSession, ReplicationSessionId};

use super::*;
use crate::replication::FromPeer;

fn with_outbox(shard: &mut Shard) -> Outbox {
    let outbox = Outbox::default();
    shard.context.peers = Arc::new(outbox.clone());
    outbox
}

fn install(shard: &mut Shard, leader: i32, epoch: i32, replicas: &[i32]) {
    let config = TopicConfig { durability: Durability::PageCache, ..TopicConfig::default() };
    let mut said = metadata(0, replicas, config);
    said.state.leader = Some(NodeId(leader));
    (said.state.leader_epoch, said.partition_epoch) = (LeaderEpoch(epoch), i64::from(epoch));
    shard.queue.push(Command::Install(Box::new(said)));
    turn(shard);
}

fn hear(shard: &mut Shard, said: FromPeer) {
    shard.queue.push(Command::FromPeer { partition: partition(0), said });
    turn(shard);
}

fn opened(outbox: &Outbox) -> Option<ReplicationSession> {
    outbox.to_leader(NodeId(2)).take().remove(&partition(0)).and_then(|news| news.open)
}

/// A shard that has led, with two records, and follows node 2 now; the open of that.
fn follows_with_two_records(disk: &MemoryDisk) -> (Shard, Outbox, ReplicationSessionId) {
    let mut shard = shard_on(disk);
    let outbox = with_outbox(&mut shard);
    install(&mut shard, 1, 1, &[1, 2, 3]);
    let _first = append(&mut shard, 0, AppendPermit::uncounted());
    let _second = append(&mut shard, 0, AppendPermit::uncounted());
    flush(&mut shard);
    turn(&mut shard);
    install(&mut shard, 2, 2, &[1, 2, 3]);
    let open = opened(&outbox).unwrap().id;
    (shard, outbox, open)
}

/// What the shard says about an elected leader whose cut may have failed at a sync.
fn leads_or_gives_up(fails: Option<u64>) -> bool {
    let disk = MemoryDisk::simulated(256 << 20);
    let (mut shard, outbox, open) = follows_with_two_records(&disk);
    if let Some(syncs) = fails {
        disk.fail_sync_after(syncs);
    }
    let (leader_epoch, epoch, end) = (LeaderEpoch(2), LeaderEpoch(1), Offset(1));
    hear(&mut shard, FromPeer::Diverged(Diverging { leader_epoch, open, epoch, end }));
    install(&mut shard, 1, 3, &[1, 3]);
    shard.keep_up(Duration::from_secs(1000));
    let given_up = outbox.to_controller().take().given_up.contains_key(&partition(0));
    shard.partitions[&partition(0)].leads() || given_up
}

#[test]
fn a_node_whose_cut_has_failed_and_that_is_elected_gives_up_the_lead() {
    assert!(leads_or_gives_up(None));
    let stuck: Vec<u64> = (0..8).filter(|syncs| !leads_or_gives_up(Some(*syncs))).collect();
    assert!(stuck.is_empty(), "it neither leads nor gives up the lead: {stuck:?}");
}

/// The system drops what it could not write, and a process that is started again finds it in good order.
#[test]
fn a_follower_with_page_cache_whose_flush_fails_is_not_counted_now_and_told_after_a_restart() {
    let boot = walser_log::BootId::of_system();
    let disk = MemoryDisk::simulated(256 << 20);
    let mut shard = shard_on(&disk);
    shard.context.directory.begin_run(boot).unwrap();
    let outbox = with_outbox(&mut shard);
    install(&mut shard, 1, 1, &[1, 2]);
    flush(&mut shard);
    turn(&mut shard);
    let _write = append(&mut shard, 0, AppendPermit::uncounted());
    install(&mut shard, 2, 2, &[1, 2]);
    disk.fail_sync_after(0);
    let found = shard.partitions.get_mut(&partition(0)).unwrap();
    let outcome = found.log.begin_flush().unwrap().unwrap().run();
    disk.fail_sync_after(u64::MAX);
    shard.queue.push(Command::Flushed { partition: partition(0), outcome });
    turn(&mut shard);
    assert!(outbox.to_controller().take().given_up.contains_key(&partition(0)));
    drop(shard);
    let shard = shard_on(&disk.restart_process());
    shard.context.directory.begin_run(boot).unwrap();
    assert!(shard.context.directory.ended_unclean());
}

#[test]
fn a_log_with_page_cache_whose_last_flush_fails_at_the_stop_is_told_after_it() {
    let boot = walser_log::BootId::of_system();
    let disk = MemoryDisk::simulated(256 << 20);
    let mut shard = shard_on(&disk);
    shard.context.directory.begin_run(boot).unwrap();
    install(&mut shard, 1, 1, &[1, 2]);
    flush(&mut shard);
    turn(&mut shard);
    let _write = append(&mut shard, 0, AppendPermit::uncounted());
    disk.fail_sync_after(0);
    let outcome = shard.partitions.get_mut(&partition(0)).unwrap().log.begin_flush().unwrap().unwrap().run();
    disk.fail_sync_after(u64::MAX);
    shard.queue.push(Command::Stop(oneshot::channel().0));
    shard.queue.push(Command::Flushed { partition: partition(0), outcome });
    stopped(&mut shard);
    drop(shard);
    let shard = shard_on(&disk.restart_process());
    shard.context.directory.begin_run(boot).unwrap();
    assert!(shard.context.directory.ended_unclean());
}

fn follows_again_after_a_copy(arrives: bool) -> bool {
    let mut shard = shard();
    let outbox = with_outbox(&mut shard);
    install(&mut shard, 1, 1, &[1, 2]);
    let _first = append(&mut shard, 0, AppendPermit::uncounted());
    flush(&mut shard);
    turn(&mut shard);
    install(&mut shard, 2, 2, &[1, 2]);
    let open = opened(&outbox).unwrap().id;
    hear(&mut shard, FromPeer::CopyOffered { leader_epoch: LeaderEpoch(2), open, log_start: Offset(0) });
    let wanted = outbox.copies().take().remove(&partition(0)).unwrap();
    install(&mut shard, 2, 3, &[2]);
    let copy = arrives.then(|| {
        let copy = shard.context.directory.begin_copy(partition(0), wanted.config.clone(), Offset(50), 1).unwrap();
        copy.complete(None, Offset::ZERO).unwrap()
    });
    hear(&mut shard, FromPeer::Copied { work: wanted.work, copy });
    install(&mut shard, 2, 4, &[1, 2]);
    opened(&outbox).is_some()
}

#[test]
fn a_copy_that_comes_when_nobody_wants_it_ends_the_work() {
    assert!(follows_again_after_a_copy(false));
    assert!(follows_again_after_a_copy(true), "the replica never follows again");
}

/// What the leader does not have is to be kept first, and there is no space for it.
#[test]
fn a_log_whose_records_cannot_be_kept_is_opened_again_with_its_marks() {
    let disk = MemoryDisk::simulated(256 << 20);
    let mut shard = shard_on(&disk);
    let outbox = with_outbox(&mut shard);
    install(&mut shard, 1, 1, &[1]);
    let _first = append(&mut shard, 0, AppendPermit::uncounted());
    flush(&mut shard);
    turn(&mut shard);
    let committed = shard.partitions[&partition(0)].log.high_watermark();
    install(&mut shard, 2, 2, &[1, 2]);
    let open = opened(&outbox).unwrap().id;
    hear(&mut shard, FromPeer::CopyOffered { leader_epoch: LeaderEpoch(2), open, log_start: Offset(0) });
    let wanted = outbox.copies().take().remove(&partition(0)).unwrap();
    let copy = shard.context.directory.begin_copy(partition(0), wanted.config.clone(), Offset(0), 1).unwrap();
    let copy = copy.complete(None, Offset::ZERO).unwrap();
    disk.set_capacity(1);
    hear(&mut shard, FromPeer::Copied { work: wanted.work, copy: Some(copy) });
    assert!(!shard.partitions.contains_key(&partition(0)), "nothing was to be kept");
    disk.set_capacity(256 << 20);
    shard.reopen(Duration::MAX);
    turn(&mut shard);
    assert_eq!(shard.partitions[&partition(0)].log.high_watermark(), committed);
}

#[test]
fn a_leader_whose_log_is_damaged_gives_up_the_lead_where_others_are_in_sync() {
    let gives_up = |replicas: &[i32]| {
        let mut shard = shard();
        let outbox = with_outbox(&mut shard);
        install(&mut shard, 1, 1, replicas);
        let _first = append(&mut shard, 0, AppendPermit::uncounted());
        flush(&mut shard);
        meet_damage(&mut shard, 0);
        turn(&mut shard);
        outbox.to_controller().take().given_up.contains_key(&partition(0))
    };
    assert!(gives_up(&[1, 2, 3]));
    assert!(!gives_up(&[1]), "there is nobody else");
}

#[test]
fn an_open_that_is_not_answered_comes_again_and_one_that_is_does_not() {
    let mut shard = shard();
    let outbox = with_outbox(&mut shard);
    install(&mut shard, 2, 1, &[1, 2]);
    let first = opened(&outbox).unwrap().id;
    let wait = |shard: &mut Shard, time: Duration| {
        shard.context.clock = Arc::new(Later { clock: Arc::clone(&shard.context.clock), time });
        let now = shard.context.clock.monotonic();
        shard.keep_up(now);
    };
    wait(&mut shard, Duration::from_secs(1));
    assert_eq!(opened(&outbox), None);
    wait(&mut shard, Duration::from_secs(3));
    let second = opened(&outbox).unwrap().id;
    assert!(second > first);
    wait(&mut shard, Duration::from_secs(4));
    assert_eq!(opened(&outbox), None, "it gets more time");
    wait(&mut shard, Duration::from_secs(3));
    let third = opened(&outbox).unwrap().id;
    let at = Offset(0);
    let (leader_epoch, base, end, high_watermark, log_start) = (LeaderEpoch(1), at, at, at, at);
    let (open, tombstone_floor) = (third, at);
    let frame = walser_replication::Frame { leader_epoch, open, base, end, high_watermark, log_start, tombstone_floor };
    let marks = crate::replication::Pushed::check(frame, bytes::Bytes::new(), None).unwrap();
    hear(&mut shard, FromPeer::Pushed(Box::new(marks)));
    wait(&mut shard, Duration::from_secs(1000));
    assert_eq!(opened(&outbox), None);
}

/// A clock that is ahead of another one.
#[derive(Debug)]
struct Later {
    clock: Arc<dyn Clock>,
    time: Duration,
}

impl Clock for Later {
    fn now_millis(&self) -> Timestamp {
        self.clock.now_millis()
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic() + self.time
    }
}

#[test]
fn time_passes_also_while_a_partition_has_more_to_write() {
    let mut shard = shard_on(&MemoryDisk::new(1 << 30));
    let outbox = with_outbox(&mut shard);
    install(&mut shard, 1, 1, &[1, 2]);
    let _first = append(&mut shard, 0, AppendPermit::uncounted());
    flush(&mut shard);
    turn(&mut shard);
    outbox.to_controller().take();
    let clock = Arc::clone(&shard.context.clock);
    for seconds in 1..10 {
        (0..8).for_each(|_| drop(push_sized(&shard.queue, 0, (1 << 20, Acks::Leader), AppendPermit::uncounted())));
        shard.context.clock = Arc::new(Later { clock: Arc::clone(&clock), time: Duration::from_secs(seconds) });
        let wait = as_shard(|| shard.turn());
        assert!(wait == Wait::For(Duration::ZERO) && !shard.incoming.is_empty(), "there is more to write");
    }
    assert!(outbox.to_controller().take().proposals.contains_key(&partition(0)), "the silent follower is proposed out");
}

#[test]
fn a_log_that_fails_in_a_deletion_is_known_to_have_failed() {
    for stop in 0..14 {
        let disk = MemoryDisk::simulated(256 << 20);
        let mut shard = shard_on(&disk);
        lead(&mut shard, 0, &[1]);
        let _first = append(&mut shard, 0, AppendPermit::uncounted());
        flush(&mut shard);
        turn(&mut shard);
        disk.stop_after(stop);
        let (reply, mut deleted) = oneshot::channel();
        shard.queue.push(Command::DeleteRecords { partition: partition(0), before: Offset(1), reply });
        turn(&mut shard);
        turn(&mut shard);
        drop(deleted.try_recv().unwrap());
        disk.stop_after(u64::MAX);
        let found = &shard.partitions[&partition(0)];
        let condition = found.log.condition().clone();
        let failed = matches!(condition, walser_log::Condition::Failed { .. });
        assert!(!failed || found.handle.failed(), "stop {stop}");
    }
}

#[test]
fn a_leader_whose_disk_is_full_has_another_one_lead_and_one_that_is_alone_does_not() {
    let handed_over = |replicas: &[i32], full: bool| {
        let disk = MemoryDisk::simulated(256 << 20);
        let mut shard = shard_on(&disk);
        let outbox = with_outbox(&mut shard);
        install(&mut shard, 1, 1, replicas);
        let _first = append(&mut shard, 0, AppendPermit::uncounted());
        flush(&mut shard);
        turn(&mut shard);
        if full {
            shard.context.space.note_full(&shard.context.directory);
        }
        shard.keep_up(Duration::from_secs(1000));
        outbox.to_controller().take().handed_over.get(&partition(0)).copied()
    };
    assert_eq!(handed_over(&[1, 2, 3], true), Some(LeaderEpoch(1)));
    assert_eq!(handed_over(&[1, 2, 3], false), None);
    assert_eq!(handed_over(&[1], true), None);
}

/// A follower with two records, and its open.
fn follower() -> (Shard, Outbox, ReplicationSession) {
    let mut shard = shard_on(&MemoryDisk::simulated(256 << 20));
    let outbox = with_outbox(&mut shard);
    install(&mut shard, 1, 1, &[1, 2]);
    let _first = append(&mut shard, 0, AppendPermit::uncounted());
    let _second = append(&mut shard, 0, AppendPermit::uncounted());
    flush(&mut shard);
    turn(&mut shard);
    install(&mut shard, 2, 2, &[1, 2]);
    let open = opened(&outbox).unwrap();
    (shard, outbox, open)
}

fn log_start(shard: &Shard) -> Offset {
    shard.partitions[&partition(0)].log.log_start()
}

#[test]
fn a_follower_whose_disk_is_full_deletes_what_its_leader_deletes() {
    let (mut shard, outbox, session) = follower();
    shard.context.space.note_full(&shard.context.directory);
    let pushed = |session: &ReplicationSession, log_start: i64| {
        let mut builder = BatchBuilder::new(Compression::None, 0);
        builder.append(&RecordFields { timestamp: 1, key: None, value: Some(b"value"), headers: &[] });
        let mut batch = builder.build(Producer::NONE).to_vec();
        walser_record_batch::stamp_position(&mut batch, Offset(2), LeaderEpoch(2));
        let (base, end, high_watermark) = (Offset(2), Offset(3), Offset(2));
        let (leader_epoch, open, log_start, tombstone_floor) =
            (LeaderEpoch(2), session.id, Offset(log_start), Offset(0));
        let frame =
            walser_replication::Frame { leader_epoch, open, base, end, high_watermark, log_start, tombstone_floor };
        let pushed = crate::replication::Pushed::check(frame, batch.into(), None).unwrap();
        FromPeer::Pushed(Box::new(pushed))
    };
    hear(&mut shard, pushed(&session, 1));
    turn(&mut shard);
    assert_eq!((log_start(&shard), shard.partitions[&partition(0)].log.log_end()), (Offset(1), Offset(2)));
    assert!(shard.context.space.full(), "it still is");
    let time = Duration::from_secs(20);
    shard.context.clock = Arc::new(Later { clock: Arc::clone(&shard.context.clock), time });
    let now = shard.context.clock.monotonic();
    shard.keep_up(now);
    let again = opened(&outbox).expect("it asks again, or it would not hear of what is deleted later");
    hear(&mut shard, pushed(&again, 2));
    turn(&mut shard);
    assert_eq!(log_start(&shard), Offset(2));
}

#[test]
fn a_follower_makes_room_for_the_leaders_log_by_what_the_leader_has_deleted() {
    // Whether there is room for both is not known before the copy begins.
    let (mut shard, outbox, session) = follower();
    let offer = FromPeer::CopyOffered { leader_epoch: LeaderEpoch(2), open: session.id, log_start: Offset(50) };
    hear(&mut shard, offer);
    turn(&mut shard);
    assert!(outbox.copies().take().contains_key(&partition(0)), "it is copied");
    assert_eq!(log_start(&shard), Offset(2), "nothing is left that the leader does not have");
}

#[test]
fn a_cut_that_finds_no_file_is_made_once_there_is_one() {
    let disk = MemoryDisk::simulated(256 << 20);
    let (mut shard, outbox, open) = follows_with_two_records(&disk);
    let committed = (Offset(1), LeaderEpoch(1));
    shard.partitions.get_mut(&partition(0)).unwrap().log.note_high_watermark(committed.0, committed.1);
    shard.queue.push(Command::CloseFiles);
    turn(&mut shard);
    disk.set_file_limit(Some(0));
    let (leader_epoch, epoch, end) = (LeaderEpoch(2), LeaderEpoch(1), Offset(1));
    hear(&mut shard, FromPeer::Diverged(Diverging { leader_epoch, open, epoch, end }));
    assert_eq!(opened(&outbox), None, "it does not follow yet");
    assert!(!shard.partitions.contains_key(&partition(0)), "what was cut in part is opened again first");
    disk.set_file_limit(None);
    shard.keep_up(Duration::from_secs(1000));
    turn(&mut shard);
    assert!(opened(&outbox).is_some(), "it follows");
    let log = &shard.partitions[&partition(0)].log;
    assert_eq!(log.log_end(), Offset(1));
    assert_eq!(log.high_watermark(), committed, "with the marks that it had");
}
