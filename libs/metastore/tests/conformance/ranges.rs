//! Ranges, page by page.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use walser_metastore::{Compare, KeyValue, Outcome, RangeRequest, Revision, StoreError, Txn, read_all};

use super::Case;
use super::faulty::Faulty;

/// Changes of one transaction, below etcd's limit.
const CHUNK: usize = 100;
const WRITERS: usize = 3;

pub(crate) async fn ranges_are_ordered_and_bounded_by_the_prefix(case: Case) {
    for name in ["t/b", "t/a", "s/z", "u", "t0"] {
        case.commit(vec![], vec![case.put(name, name)]).await;
    }
    let keys = |name: &str| {
        let (store, prefix) = (Arc::clone(&case.store), case.key(name));
        async move {
            let all = read_all(&*store, &prefix).await.unwrap();
            all.entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>()
        }
    };
    assert_eq!(keys("t/").await, [case.key("t/a"), case.key("t/b")]);
    assert_eq!(keys("").await, ["s/z", "t/a", "t/b", "t0", "u"].map(|name| case.key(name)));
    assert_eq!(keys("t/c").await, Vec::<String>::new());
}

/// What a page shows, and whether there is more.
async fn page(case: &Case, after: Option<&str>, limit: usize, at: Revision) -> (Vec<String>, bool) {
    let after = after.map(|name| case.key(name));
    let page = case.store.range(RangeRequest { after, ..case.range("p/", limit, Some(at)) }).await.unwrap();
    assert_eq!(page.revision, at);
    let show = |entry: KeyValue| format!("{}={}", entry.key, String::from_utf8_lossy(&entry.value));
    (page.entries.into_iter().map(show).collect(), page.more)
}

pub(crate) async fn pages_show_one_revision_whatever_changes_meanwhile(case: Case) {
    let (put, delete) = (|name, value| case.put(name, value), |name| case.delete(name));
    let first = vec![put("p/b", "1"), put("p/c", "1"), put("p/d", "1"), put("q", "1")];
    let first = case.commit(vec![], first).await;
    let second = vec![put("p/a", "2"), put("p/c", "2"), delete("p/d"), put("p/e", "2")];
    let second = case.commit(vec![], second).await;
    let third = case.commit(vec![], vec![put("p/c", "3"), put("p/d", "3"), delete("p/e"), delete("q")]).await;
    let texts = |texts: &[&str]| texts.iter().map(|text| case.key(text)).collect::<Vec<_>>();
    let all = [
        (first, texts(&["p/b=1", "p/c=1", "p/d=1"])),
        (second, texts(&["p/a=2", "p/b=1", "p/c=2", "p/e=2"])),
        (third, texts(&["p/a=2", "p/b=1", "p/c=3", "p/d=3"])),
    ];
    for (revision, wanted) in all {
        assert_eq!(page(&case, None, 10, revision).await, (wanted.clone(), false));
        assert_eq!(page(&case, None, wanted.len(), revision).await, (wanted.clone(), false));
        assert_eq!(page(&case, None, 2, revision).await, (wanted[..2].to_vec(), true));
        assert_eq!(page(&case, Some("p/b"), 1, revision).await.0, wanted[wanted.len() - 2..][..1]);
        assert_eq!(page(&case, Some("p/x"), 1, revision).await, (vec![], false));
    }
    let created = |page: walser_metastore::RangePage| page.entries[0].create_revision;
    assert_eq!(created(case.store.range(case.range("p/d", 1, Some(first))).await.unwrap()), first);
    assert_eq!(created(case.store.range(case.range("p/d", 1, None)).await.unwrap()), third);
}

pub(crate) async fn a_revision_that_is_not_there_cannot_be_read(case: Case) {
    let last = case.commit(vec![], vec![case.put("a", "1")]).await;
    for revision in [last + 1_000_000, -1] {
        let future = case.store.range(case.range("a", 1, Some(revision))).await;
        assert!(matches!(future, Err(StoreError::Invalid(_))), "{future:?}");
    }
}

/// Creates `count` keys; returns the revision of the last one.
async fn create(case: &Case, count: usize) -> Revision {
    let numbers: Vec<usize> = (0..count).collect();
    let mut last = 0;
    for chunk in numbers.chunks(CHUNK) {
        last = case.commit(vec![], chunk.iter().map(|number| case.put(&name(*number), "1")).collect()).await;
    }
    last
}

fn name(number: usize) -> String {
    format!("n/{number:06}")
}

/// Moves keys to another name and back, each within one transaction: there are always as many keys. One attempt per
/// permit; returns how many succeeded.
fn mover(
    case: &Case,
    first: usize,
    count: usize,
    permits: &Arc<Semaphore>,
    attempts: &Arc<AtomicUsize>,
) -> JoinHandle<usize> {
    let (case, permits, attempts) = (case.clone(), Arc::clone(permits), Arc::clone(attempts));
    tokio::spawn(async move {
        let (mut number, mut moves) = (first % count, 0);
        while let Ok(permit) = permits.acquire().await {
            permit.forget();
            let (here, there) = (name(number), format!("{}-moved", name(number)));
            let (entry, _) = case.store.get(&case.key(&here)).await.unwrap();
            let (from, to) = if entry.is_some() { (here, there) } else { (there, here) };
            let (entry, _) = case.store.get(&case.key(&from)).await.unwrap();
            // Another writer may have moved it meanwhile.
            if let Some(entry) = entry {
                let compares = vec![Compare::ModifiedAt(entry.key, entry.mod_revision)];
                let ops = vec![case.delete(&from), case.put(&to, "2")];
                let outcome = case.store.transact(Txn { compares, ops }).await.unwrap();
                moves += usize::from(matches!(outcome, Outcome::Committed(_)));
            }
            attempts.fetch_add(1, Ordering::Release);
            number = (number + WRITERS * (count / 29 + 1)) % count;
        }
        moves
    })
}

async fn read_while_they_change(case: Case, count: usize) {
    let created = create(&case, count).await;
    let (permits, attempts) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let writers: Vec<_> = (0..WRITERS).map(|writer| mover(&case, writer, count, &permits, &attempts)).collect();

    // As of the creation, with changes before each page.
    let mut request = case.range("n/", count / 7 + 1, Some(created));
    let (mut read, mut pages) = (Vec::new(), 0);
    loop {
        pages += 1;
        let before = attempts.load(Ordering::Acquire);
        permits.add_permits(10);
        while attempts.load(Ordering::Acquire) < before + 5 {
            tokio::task::yield_now().await;
        }
        let page = case.store.range(request.clone()).await.unwrap();
        assert_eq!(page.revision, created);
        read.extend(page.entries);
        if !page.more {
            break;
        }
        request.after = read.last().map(|entry| entry.key.clone());
    }
    let names: Vec<_> = read.iter().map(|entry| entry.key.clone()).collect();
    assert_eq!(names, (0..count).map(|number| case.key(&name(number))).collect::<Vec<_>>());
    assert!(read.iter().all(|entry| entry.value == "1" && entry.mod_revision <= created));

    // As of whatever is the latest when reading begins.
    for _ in 0..5 {
        permits.add_permits(20);
        let all = read_all(&*case.store, &case.key("n/")).await.unwrap();
        assert_eq!(all.entries.len(), count, "keys were read twice, or not at all");
        assert!(all.entries.is_sorted_by(|one, other| one.key < other.key));
        assert!(all.entries.iter().all(|entry| entry.mod_revision <= all.revision));
    }
    permits.close();
    let mut moves = 0;
    for writer in writers {
        moves += writer.await.unwrap();
    }
    assert!(moves >= pages, "{moves} moves while {pages} pages were read");
}

pub(crate) async fn one_key_is_read_while_it_changes(case: Case) {
    read_while_they_change(case, 1).await;
}

pub(crate) async fn a_thousand_keys_are_read_while_they_change(case: Case) {
    read_while_they_change(case, 1_000).await;
}

pub(crate) async fn ten_thousand_keys_are_read_while_they_change(case: Case) {
    read_while_they_change(case, 10_000).await;
}

pub(crate) async fn reading_starts_anew_after_a_compaction(case: Case) {
    let created = create(&case, 2_500).await;
    let faulty = Faulty::new(&case.store).with_compacted_pages(3);
    let all = read_all(&faulty, &case.key("n/")).await.unwrap();
    assert!(faulty.is_used_up());
    assert!(all.revision > created);
    assert_eq!(all.entries.len(), 2_500);
    assert!(all.entries[0].mod_revision > created, "as of after the compaction");
}

pub(crate) async fn reading_that_is_compacted_every_time_gives_up(case: Case) {
    create(&case, 1_001).await;
    let faulty = Faulty::new(&case.store).with_compacted_pages(usize::MAX);
    let all = read_all(&faulty, &case.key("n/")).await;
    assert!(matches!(all, Err(StoreError::Compacted { .. })), "{all:?}");
}
