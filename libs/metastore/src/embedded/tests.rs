//! Groups of requests, and a disk that fails.

mod disk;

use std::sync::atomic::Ordering;

use bytes::Bytes;
use redb::{ReadableDatabase as _, ReadableTable as _, TableDefinition};
use tokio::task::JoinHandle;

use self::disk::Disk;
use super::writer::WriterTurn;
use super::*;
use crate::{Change, Compare, Op, WatchEvent, read_all};

type Answer = Result<Outcome, StoreError>;

fn bound(key: &str, lease: Option<LeaseId>) -> Op {
    Op::Put { key: key.to_owned(), value: Bytes::from_static(b"value"), lease }
}

fn put(key: &str) -> Txn {
    Txn { compares: Vec::new(), ops: vec![bound(key, None)] }
}

fn create(key: &str) -> Txn {
    Txn { compares: vec![Compare::Missing(key.to_owned())], ops: vec![bound(key, None)] }
}

fn committed(answer: Answer) -> Revision {
    let Ok(Outcome::Committed(revision)) = answer else { panic!("not committed: {answer:?}") };
    revision
}

/// Requests that wait for the writer, in their order.
struct Paused {
    store: Embedded,
    turn: WriterTurn,
    callers: Vec<JoinHandle<Answer>>,
}

impl Paused {
    fn new(store: &Embedded) -> Self {
        Self { store: store.clone(), turn: store.queue.pause(), callers: Vec::new() }
    }

    async fn add(&mut self, request: WriteRequest) {
        let store = self.store.clone();
        let before = self.store.queue.len();
        self.callers.push(tokio::spawn(async move { store.write(request).await }));
        while self.store.queue.len() == before {
            tokio::task::yield_now().await;
        }
    }

    async fn add_all(&mut self, txns: impl IntoIterator<Item = Txn>) {
        for txn in txns {
            self.add(WriteRequest::Transact(txn)).await;
        }
    }

    fn resume(self) -> Vec<JoinHandle<Answer>> {
        let Self { store, turn, callers } = self;
        tokio::task::spawn_blocking(move || turn.run(store));
        callers
    }

    async fn answers(self) -> Vec<Answer> {
        let mut answers = Vec::new();
        for caller in self.resume() {
            answers.push(caller.await.unwrap());
        }
        answers
    }
}

/// The store MUST be what opening its file again shows, and go on.
async fn check_file(store: Embedded, disk: &Disk) {
    let last = committed(store.transact(put("last")).await);
    let shown = read_all(&store, "").await.unwrap();
    assert_eq!(shown.revision, last);
    drop(store);
    let opened = disk.open();
    assert_eq!(read_all(&opened, "").await.unwrap(), shown);
    let next = committed(opened.transact(put("next")).await);
    assert!(next > last);
}

/// A full disk once left the store unusable until the next start, so that nothing could be deleted to make room.
/// A store on a disk with one commit: its revision, and the syncs that a commit takes.
async fn with_one_commit(disk: &Disk) -> (Embedded, Revision, usize) {
    let store = disk.open();
    let before = disk.syncs.load(Ordering::Relaxed);
    let first = committed(store.transact(put("0")).await);
    (store, first, disk.syncs.load(Ordering::Relaxed) - before)
}

#[tokio::test]
async fn a_failed_write_is_over_when_there_is_room_again() {
    let disk = Disk::default();
    let store = disk.open();
    committed(store.transact(put("first")).await);

    disk.full.store(true, Ordering::Relaxed);
    for gone in [false, true, false] {
        disk.gone.store(gone, Ordering::Relaxed);
        assert!(store.transact(put("second")).await.is_err());
        assert!(store.get("second").await.unwrap().0.is_none());
        assert!(store.get("first").await.unwrap().0.is_some(), "reads go on");
    }

    disk.full.store(false, Ordering::Relaxed);
    committed(store.transact(put("second")).await);
    assert!(store.get("second").await.unwrap().0.is_some());
    check_file(store, &disk).await;
}

#[tokio::test]
async fn what_waits_is_written_at_once_and_each_has_its_revision() {
    let disk = Disk::default();
    let (store, first, syncs) = with_one_commit(&disk).await;

    let mut watch = store.watch("", first).await.unwrap();
    let mut paused = Paused::new(&store);
    paused.add_all((1..=300).map(|number| put(&number.to_string()))).await;
    let before = disk.syncs.load(Ordering::Relaxed);
    let revisions: Vec<_> = paused.answers().await.into_iter().map(committed).collect();
    assert_eq!(revisions, (first + 1..=first + 300).collect::<Vec<_>>());
    assert_eq!(disk.syncs.load(Ordering::Relaxed) - before, 2 * syncs, "256 at once, and the rest");
    for wanted in revisions {
        let Ok(WatchEvent::Changes { revision, changes }) = watch.next().await else { panic!("no changes") };
        assert_eq!((revision, changes.len()), (wanted, 1));
    }
    check_file(store, &disk).await;
}

#[tokio::test]
async fn a_request_larger_than_a_group_is_written() {
    let store = Disk::default().open();
    let mut paused = Paused::new(&store);
    for key in ["a", "b"] {
        let value = vec![0; 5 << 20].into();
        let ops = vec![Op::Put { key: key.to_owned(), value, lease: None }];
        paused.add_all([Txn { compares: Vec::new(), ops }]).await;
    }
    for answer in paused.answers().await {
        committed(answer);
    }
}

#[tokio::test]
async fn requests_see_those_ahead_of_them() {
    let disk = Disk::default();
    let store = disk.open();
    let before = committed(store.transact(put("there")).await);
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    let mut paused = Paused::new(&store);
    paused.add_all([create("a"), create("a"), create("there")]).await;
    let compares = vec![Compare::CreatedAt("a".to_owned(), before + 1)];
    let ops = vec![Op::Delete { key: "a".to_owned() }, bound("leased", Some(lease)), bound("moved", Some(lease))];
    paused.add_all([Txn { compares, ops }, create("a"), put("moved")]).await;
    paused.add(WriteRequest::Raise(1_000)).await;
    paused.add(WriteRequest::Raise(900)).await;
    paused.add(WriteRequest::Revoke(lease)).await;
    let ops = vec![bound("late", Some(lease))];
    paused.add_all([Txn { compares: Vec::new(), ops }, put("b"), create("leased")]).await;
    let answers = paused.answers().await;
    assert_eq!(committed(answers[0].clone()), before + 1);
    let Ok(Outcome::Conflict { current, revision }) = &answers[1] else { panic!("{answers:?}") };
    assert_eq!((current[0].as_ref().unwrap().create_revision, *revision), (before + 1, before + 1));
    assert!(matches!(answers[2], Ok(Outcome::Conflict { .. })));
    assert_eq!(committed(answers[3].clone()), before + 2);
    assert_eq!(committed(answers[4].clone()), before + 3);
    assert_eq!(committed(answers[5].clone()), before + 4);
    assert_eq!((committed(answers[6].clone()), committed(answers[7].clone())), (1_000, 1_000));
    assert_eq!(committed(answers[8].clone()), 1_001);
    assert_eq!(answers[9], Err(StoreError::NoLease(lease)));
    assert_eq!((committed(answers[10].clone()), committed(answers[11].clone())), (1_002, 1_003));
    assert!(store.get("moved").await.unwrap().0.is_some(), "no longer bound to the lease");
    assert_eq!(store.get("a").await.unwrap().0.unwrap().create_revision, before + 3);
    check_file(store, &disk).await;
}

/// A conflict with a change that then failed is no conflict.
#[tokio::test]
async fn what_was_decided_with_a_failed_change_is_decided_again() {
    let disk = Disk::default();
    let store = disk.open();
    let before = committed(store.transact(put("there")).await);
    let mut paused = Paused::new(&store);
    paused.add_all([create("a"), create("a"), create("there"), create("b")]).await;
    disk.failing_write.store(true, Ordering::Relaxed);
    let answers = paused.answers().await;
    assert!(matches!(answers[0], Err(StoreError::Unavailable(_))), "{answers:?}");
    assert_eq!(committed(answers[1].clone()), before + 1, "decided again");
    assert!(matches!(&answers[2], Ok(Outcome::Conflict { .. })));
    assert!(matches!(answers[3], Err(StoreError::Unavailable(_))));
    assert!(store.get("b").await.unwrap().0.is_none());
    check_file(store, &disk).await;
}

/// The last sync of a commit fails after everything was written: the file shows that the group is there.
#[tokio::test]
async fn a_group_that_is_in_the_file_is_answered_as_decided() {
    let disk = Disk::default();
    let (store, first, syncs) = with_one_commit(&disk).await;
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    let mut paused = Paused::new(&store);
    paused.add_all([create("a"), create("a"), put("b")]).await;
    paused.add(WriteRequest::Raise(500)).await;
    paused.add(WriteRequest::Revoke(lease)).await;
    disk.fail_sync(syncs);
    let answers = paused.answers().await;
    assert_eq!(committed(answers[0].clone()), first + 1);
    assert!(matches!(answers[1], Ok(Outcome::Conflict { revision, .. }) if revision == first + 1), "{answers:?}");
    assert_eq!(committed(answers[2].clone()), first + 2);
    assert_eq!((committed(answers[3].clone()), committed(answers[4].clone())), (500, 500));
    assert!(disk.failing_sync.load(Ordering::Relaxed) < disk.syncs.load(Ordering::Relaxed), "it failed");
    assert_eq!(store.keep_alive(lease).await, Err(StoreError::NoLease(lease)));
    check_file(store, &disk).await;
}

/// The outcome is not known until the file can be opened again; what is asked meanwhile changes nothing.
#[tokio::test]
async fn a_group_in_doubt_is_settled_before_anything_else_is_decided() {
    for in_file in [false, true] {
        let disk = Disk::default();
        let (store, first, syncs) = with_one_commit(&disk).await;
        let lease = store.grant(Duration::from_secs(60)).await.unwrap();
        let mut paused = Paused::new(&store);
        paused.add_all([create("a"), create("a"), put("b")]).await;
        paused.add(WriteRequest::Revoke(lease)).await;
        disk.gone.store(true, Ordering::Relaxed);
        if in_file {
            disk.fail_sync(syncs);
        } else {
            disk.failing_write.store(true, Ordering::Relaxed);
        }
        let answers = paused.answers().await;
        assert!(matches!(answers[0], Err(StoreError::Unknown(_))), "{answers:?}");
        assert!(matches!(answers[1], Err(StoreError::Unavailable(_))), "it has changed nothing: {answers:?}");
        assert!(matches!(answers[2], Err(StoreError::Unknown(_))));
        assert!(store.keep_alive(lease).await.is_err(), "it may have ended");
        assert!(matches!(store.transact(put("c")).await, Err(StoreError::Unavailable(_))));
        assert_eq!(store.get("a").await.unwrap(), (None, first));

        disk.gone.store(false, Ordering::Relaxed);
        let outcome = store.transact(create("a")).await.unwrap();
        assert_eq!(matches!(outcome, Outcome::Conflict { .. }), in_file, "{outcome:?}");
        assert_eq!(outcome.revision(), if in_file { first + 2 } else { first + 1 });
        assert_eq!(store.keep_alive(lease).await.is_ok(), !in_file);
        check_file(store, &disk).await;
    }
}

/// What fits on a full disk, such as a deletion, must not fail for ever with what does not.
#[tokio::test]
async fn groups_are_small_after_a_failure() {
    let disk = Disk::default();
    let (store, _, syncs) = with_one_commit(&disk).await;
    disk.failing_write.store(true, Ordering::Relaxed);
    store.transact(put("1")).await.unwrap_err();
    let mut paused = Paused::new(&store);
    paused.add_all((0..7).map(|number| put(&number.to_string()))).await;
    let before = disk.syncs.load(Ordering::Relaxed);
    for answer in paused.answers().await {
        committed(answer);
    }
    assert_eq!(disk.syncs.load(Ordering::Relaxed) - before, 3 * syncs, "1, 2 and 4 at once");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_kept_alive_while_its_end_waited_goes_on() {
    let store = Disk::default().open();
    let lease = store.grant(Duration::from_secs(5)).await.unwrap();
    let mut paused = Paused::new(&store);
    let overdue = tokio::time::Instant::now() + Duration::from_secs(5);
    paused.add(WriteRequest::Expire(lease, overdue)).await;
    tokio::time::advance(Duration::from_secs(1)).await;
    store.keep_alive(lease).await.unwrap();
    assert!(paused.answers().await[0].is_ok());
    store.keep_alive(lease).await.unwrap();
}

#[tokio::test]
async fn callers_that_go_away_tear_nothing() {
    let disk = Disk::default();
    let store = disk.open();
    let first = committed(store.transact(put("0")).await);
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    committed(store.transact(Txn { compares: Vec::new(), ops: vec![bound("leased", Some(lease))] }).await);
    let mut paused = Paused::new(&store);
    paused.add_all((0..20).map(|number| put(&format!("gone/{number}")))).await;
    paused.add(WriteRequest::Revoke(lease)).await;
    for caller in &paused.callers {
        caller.abort();
    }
    paused.resume();
    // What comes behind them is answered behind them.
    let last = committed(store.transact(put("behind")).await);
    assert_eq!(last, first + 23);
    assert_eq!(read_all(&store, "gone/").await.unwrap().entries.len(), 20);
    assert!(store.get("leased").await.unwrap().0.is_none());
    check_file(store, &disk).await;
}

#[tokio::test]
async fn a_writer_that_panics_leaves_nobody_waiting() {
    let disk = Disk::default();
    let store = disk.open();
    committed(store.transact(put("0")).await);
    let mut paused = Paused::new(&store);
    paused.add_all((0..300).map(|number| put(&format!("{number}")))).await;
    disk.panics.store(true, Ordering::Relaxed);
    for answer in paused.answers().await {
        assert!(matches!(answer, Err(StoreError::Unknown(_))), "{answer:?}");
    }
    check_file(store, &disk).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_ends_when_the_disk_has_room_again() {
    let disk = Disk::default();
    let store = disk.open();
    let lease = store.grant(Duration::from_secs(5)).await.unwrap();
    let revision =
        committed(store.transact(Txn { compares: Vec::new(), ops: vec![bound("leased", Some(lease))] }).await);
    let mut watch = store.watch("leased", revision).await.unwrap();
    disk.full.store(true, Ordering::Relaxed);
    tokio::time::timeout(Duration::from_secs(60), watch.next()).await.unwrap_err();
    assert!(store.get("leased").await.unwrap().0.is_some());
    disk.full.store(false, Ordering::Relaxed);
    let Ok(WatchEvent::Changes { changes, .. }) = watch.next().await else { panic!("the lease did not end") };
    assert_eq!(changes, [Change::Delete { key: "leased".to_owned() }]);
    assert_eq!(store.keep_alive(lease).await, Err(StoreError::NoLease(lease)));
    check_file(store, &disk).await;
}

const ENTRIES: TableDefinition<'_, &str, (i64, i64, i64, &[u8])> = TableDefinition::new("entries");
const NUMBERS: TableDefinition<'_, &str, i64> = TableDefinition::new("numbers");

#[tokio::test]
async fn a_file_of_format_1_becomes_one_of_format_2() {
    let disk = Disk::default();
    let write = disk.database().unwrap();
    let before = write.begin_write().unwrap();
    {
        let mut entries = before.open_table(ENTRIES).unwrap();
        entries.insert("kept", (3, 6, 0, b"1".as_slice())).unwrap();
        entries.insert("leased", (7, 7, 2, b"2".as_slice())).unwrap();
        let mut numbers = before.open_table(NUMBERS).unwrap();
        for (name, number) in [("format", 1), ("revision", 7), ("revision-base", 5)] {
            numbers.insert(name, number).unwrap();
        }
    }
    before.commit().unwrap();
    drop(write);

    let store = disk.open();
    let kept = read_all(&store, "").await.unwrap();
    assert_eq!(kept.revision, 7, "the leased key went away, and nobody has seen it in this revision");
    assert_eq!(kept.entries.len(), 1);
    let entry = &kept.entries[0];
    assert_eq!((entry.key.as_str(), entry.create_revision, entry.mod_revision, entry.lease), ("kept", 3, 6, 0));
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    committed(store.transact(Txn { compares: Vec::new(), ops: vec![bound("bound", Some(lease))] }).await);
    store.raise_revision(100).await.unwrap();
    committed(store.transact(put("kept")).await);
    store.raise_revision(200).await.unwrap();
    drop(store);

    let read = disk.database().unwrap().begin_read().unwrap();
    let entries = read.open_table(ENTRIES).unwrap();
    let shown: Vec<_> = entries.iter().unwrap().map(|item| item.unwrap()).collect();
    let shown: Vec<_> = shown.iter().map(|(key, value)| (key.value(), value.value())).collect();
    let value = b"value".as_slice();
    assert_eq!(shown, [("bound", (8, 8, lease, value)), ("kept", (3, 101, 0, value))]);
    let numbers = read.open_table(NUMBERS).unwrap();
    let number = |name| numbers.get(name).unwrap().unwrap().value();
    assert_eq!((number("format"), number("revision"), number("revision-base")), (2, 101, 200));
    assert_eq!(number("digest"), 7_854_712_604_889_744_194);
}

/// A store with some entries, stopped cleanly, and what is in it.
async fn with_entries(disk: &Disk) -> (Revision, Vec<KeyValue>) {
    let store = disk.open();
    for number in 0..50 {
        committed(store.transact(put(&format!("topics/{number}"))).await);
    }
    let shown = read_all(&store, "").await.unwrap();
    (shown.revision, shown.entries)
}

#[tokio::test]
async fn what_was_changed_behind_its_back_is_damage() {
    let changes: [fn(&redb::WriteTransaction); 4] = [
        |write| {
            let mut entries = write.open_table(ENTRIES).unwrap();
            entries.insert("topics/7", (8, 8, 0, b"valuf".as_slice())).unwrap();
        },
        |write| drop(write.open_table(ENTRIES).unwrap().remove("topics/7").unwrap()),
        |write| {
            let mut entries = write.open_table(ENTRIES).unwrap();
            let entry = entries.remove("topics/7").unwrap().unwrap().value().0;
            entries.insert("uopics/7", (entry, entry, 0, b"value".as_slice())).unwrap();
        },
        |write| drop(write.open_table(NUMBERS).unwrap().insert("revision", 49).unwrap()),
    ];
    for change in changes {
        let disk = Disk::default();
        with_entries(&disk).await;
        let database = disk.database().unwrap();
        let write = database.begin_write().unwrap();
        change(&write);
        write.commit().unwrap();
        drop(database);
        assert!(matches!(disk.try_open(), Err(StoreError::Format(_))));
    }
}

/// One bit of a file that was closed, anywhere: the file is refused, or everything is there.
#[tokio::test]
async fn a_flipped_bit_is_noticed_or_does_not_matter() {
    let disk = Disk::default();
    let written = with_entries(&disk).await;
    let (mut refused, len) = (0, disk.len());
    for byte in (0..len).step_by(211) {
        let damaged = disk.copy();
        damaged.flip(byte, u8::try_from(byte % 8).unwrap());
        match damaged.try_open() {
            Ok(store) => {
                let shown = read_all(&store, "").await.unwrap();
                assert_eq!((shown.revision, shown.entries), written, "byte {byte} of {len}");
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0, "none of the bytes mattered");
}
