//! Partitions that are away with a thread which waits for the disk: what comes in meanwhile, and what comes late.

use walser_model::Offset;

use super::*;

/// A turn without any maintenance.
fn only_turn(shard: &mut Shard) {
    as_shard(|| shard.turn());
}

/// Runs the maintenance that waited longest; the shard is yet to be told.
fn maintain(shard: &Shard) -> Command {
    let (clock, metrics) = (&shard.around.clock, &shard.around.metrics);
    shard.disk_threads.maintain_one(&**clock, metrics).expect("nothing waits")
}

fn take(answers: &Answers) -> AppendStreamResponse {
    answers.lock().pop().expect("no answer")
}

#[test]
fn what_comes_in_for_a_partition_that_is_away_is_carried_out_in_order_when_it_is_back() {
    let mut shard = shard();
    lead(&mut shard, 0, &[1]);
    lead(&mut shard, 1, &[1]);
    let first = push(&mut shard, 0, AppendPermit::uncounted());
    only_turn(&mut shard);
    assert!(shard.away.contains_key(&partition(0)), "its file has to be opened");
    let second = push(&mut shard, 0, AppendPermit::uncounted());
    let (reply, mut deleted) = oneshot::channel();
    shard.queue.push(Command::DeleteRecords { partition: partition(0), before: Offset(1), reply });
    let third = push(&mut shard, 0, AppendPermit::uncounted());
    let (done, mut settled) = oneshot::channel();
    shard.queue.push(Command::Barrier(done));
    only_turn(&mut shard);
    assert!(settled.try_recv().is_err(), "what was pushed before is not carried out yet");

    // The others go on meanwhile.
    let opened = maintain(&shard);
    let other = append(&mut shard, 1, AppendPermit::uncounted());
    assert!(take(&other).error.is_none());
    shard.queue.push(opened);
    only_turn(&mut shard);
    let offsets = [&first, &second].map(|answers| take(answers).base_offset);
    assert_eq!(offsets, [0, 1]);
    assert!(third.lock().is_empty() && deleted.try_recv().is_err(), "records are deleted by a thread");
    assert!(settled.try_recv().is_err());
    turn(&mut shard);
    assert_eq!(deleted.try_recv().unwrap().unwrap(), Offset(1));
    assert_eq!(take(&third).base_offset, 2);
    assert_eq!(settled.try_recv(), Ok(()));
}

#[test]
fn ten_thousand_partitions_are_opened_at_once_and_a_barrier_waits_for_all() {
    let mut shard = shard();
    for number in 0..10_000 {
        shard.queue.push(Command::Install(Box::new(metadata(number, &[1], TopicConfig::default()))));
    }
    let (done, mut settled) = oneshot::channel();
    shard.queue.push(Command::Barrier(done));
    only_turn(&mut shard);
    assert_eq!((shard.away.len(), settled.try_recv().is_err()), (10_000, true));
    let mut late: Vec<Command> = (0..10_000).map(|_| maintain(&shard)).collect();
    let last = late.remove(0);
    late.into_iter().rev().for_each(|opened| shard.queue.push(opened));
    only_turn(&mut shard);
    assert!(settled.try_recv().is_err(), "one is still away");
    shard.queue.push(last);
    only_turn(&mut shard);
    assert_eq!((settled.try_recv(), shard.away.len()), (Ok(()), 0));
    assert!((0..10_000).all(|number| shard.around.board.led(partition(number)).is_ok()));
}

#[test]
fn a_shard_that_stops_closes_what_is_away_and_answers_what_waited_for_it() {
    let disk = MemoryDisk::simulated(256 << 20);
    let mut shard = shard_on(&disk);
    lead_with(&mut shard, 0, &[1], Durability::Fsync);
    let answered = push(&mut shard, 0, AppendPermit::uncounted());
    only_turn(&mut shard);
    let waits = push(&mut shard, 0, AppendPermit::uncounted());
    let (done, mut removed) = oneshot::channel();
    shard.queue.push(Command::Remove { partition: partition(0), done });
    stop(&mut shard);
    assert!(take(&answered).error.is_none(), "it had come in before");
    assert!(take(&waits).error.is_some_and(|error| error.reason == "NOT_LEADER"));
    assert!(removed.try_recv().is_err(), "whoever waits hears that there is no answer");
    assert!(shard.partitions.is_empty() && shard.away.is_empty());
}

#[test]
fn a_partition_is_removed_after_its_flush_and_not_before() {
    let disk = MemoryDisk::simulated(256 << 20);
    let mut shard = shard_on(&disk);
    lead_with(&mut shard, 0, &[1], Durability::Fsync);
    let waits = append(&mut shard, 0, AppendPermit::uncounted());
    let (done, mut removed) = oneshot::channel();
    shard.queue.push(Command::Remove { partition: partition(0), done });
    turn(&mut shard);
    assert!(removed.try_recv().is_err() && waits.lock().is_empty(), "the flush is under way");
    flush(&mut shard);
    assert!(removed.try_recv().unwrap().is_ok());
    assert!(take(&waits).error.is_none(), "it was durable, and then removed");
    assert!(disk.list(&shard.around.directory.partition_dir(partition(0))).is_err());
}

#[test]
fn a_write_that_is_refused_leaves_nothing_on_the_disk() {
    let disk = MemoryDisk::simulated(256 << 20);
    let mut shard = shard_on(&disk);
    lead(&mut shard, 0, &[1]);
    shard.queue.push(Command::Resign(partition(0)));
    let not_led = append(&mut shard, 0, AppendPermit::uncounted());
    lead(&mut shard, 1, &[1]);
    shard.around.problem.set(Some("it is gone".to_owned()));
    let gone = append(&mut shard, 1, AppendPermit::uncounted());
    for (number, answers, reason) in [(0, not_led, Reason::NotLeader), (1, gone, Reason::StorageError)] {
        let failure = Failure::from(take(&answers).error.unwrap());
        assert_eq!((failure.reason(), failure.effect()), (reason, Effect::None), "{failure}");
        assert!(disk.list(&shard.around.directory.partition_dir(partition(number))).is_err());
    }
    shard.around.problem.set(None);
    assert!(take(&append(&mut shard, 1, AppendPermit::uncounted())).error.is_none());
}
