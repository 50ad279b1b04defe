//! Compaction.

use walser_metastore::{RangePage, StoreError, WatchError, read_all};

use super::{Case, next_changes};

fn values(page: RangePage) -> Vec<String> {
    page.entries.into_iter().map(|entry| String::from_utf8(entry.value.to_vec()).unwrap()).collect()
}

pub(crate) async fn history_is_forgotten_when_that_is_asked_for(case: Case) {
    let first = case.commit(vec![], vec![case.put("k", "1")]).await;
    let second = case.commit(vec![], vec![case.put("k", "2")]).await;
    let third = case.commit(vec![], vec![case.put("k", "3")]).await;
    let future = case.store.compact(third + 1_000_000).await;
    assert!(matches!(future, Err(StoreError::Invalid(_))), "{future:?}");
    case.store.compact(second).await.unwrap();
    case.store.compact(second).await.unwrap();
    case.store.compact(first).await.unwrap();

    let mut behind = case.watch("k", first).await;
    for _ in 0..2 {
        let Err(WatchError::Compacted { kept_from }) = behind.next().await else { panic!("not compacted") };
        assert!(kept_from >= second);
    }
    let old = case.store.range(case.range("k", 1, Some(first))).await;
    let Err(StoreError::Compacted { kept_from }) = old else { panic!("not compacted: {old:?}") };
    assert!(kept_from >= second);
    assert_eq!(values(case.store.range(case.range("k", 1, Some(second))).await.unwrap()), ["2"]);

    let mut watch = case.watch("k", second).await;
    assert_eq!(next_changes(&mut watch).await.0, third);
    case.store.compact(third).await.unwrap();
    let fourth = case.commit(vec![], vec![case.put("k", "4")]).await;
    assert_eq!(next_changes(&mut watch).await.0, fourth, "a watch that has returned everything goes on");
    assert_eq!(values(case.store.range(case.range("k", 1, None)).await.unwrap()), ["4"]);
}

pub(crate) async fn a_watch_that_was_away_during_a_compaction_is_told(case: Case) {
    let start = case.commit(vec![], vec![case.put("k/1", "1")]).await;
    let mut watch = case.watch("k/", start).await;
    let seen = case.commit(vec![], vec![case.put("k/2", "1")]).await;
    assert_eq!(next_changes(&mut watch).await.0, seen);
    drop(watch);
    case.commit(vec![], vec![case.delete("k/1"), case.put("k/3", "1")]).await;
    let compacted = case.commit(vec![], vec![case.put("k/4", "1")]).await;
    case.store.compact(compacted).await.unwrap();

    let mut resumed = case.watch("k/", seen).await;
    assert!(matches!(resumed.next().await, Err(WatchError::Compacted { .. })));
    let all = read_all(&*case.store, &case.key("k/")).await.unwrap();
    let keys: Vec<_> = all.entries.iter().map(|entry| &entry.key).collect();
    assert_eq!(keys, [&case.key("k/2"), &case.key("k/3"), &case.key("k/4")]);
    let mut watch = case.watch("k/", all.revision).await;
    let next = case.commit(vec![], vec![case.put("k/5", "1")]).await;
    assert_eq!(next_changes(&mut watch).await.0, next);
}
