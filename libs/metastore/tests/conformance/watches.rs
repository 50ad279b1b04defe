//! Watches.

use std::time::Duration;

use walser_metastore::{Change, Revision, WatchEvent};

use super::{Case, next_changes};

pub(crate) async fn watches_return_every_change_once_and_in_order(case: Case) {
    let start = case.commit(vec![], vec![case.put("w/0", "0")]).await;
    let mut watch = case.watch("w/", start).await;
    case.commit(vec![], vec![case.put("other", "1")]).await;
    let both = case.commit(vec![], vec![case.put("w/1", "1"), case.put("w/2", "1"), case.put("v", "1")]).await;
    let gone = case.commit(vec![], vec![case.delete("w/1")]).await;
    let (revision, changes) = next_changes(&mut watch).await;
    assert_eq!(revision, both);
    let keys: Vec<_> = changes.iter().map(Change::key).collect();
    assert_eq!(keys, [case.key("w/1"), case.key("w/2")]);
    let deleted = Change::Delete { key: case.key("w/1") };
    assert_eq!(next_changes(&mut watch).await, (gone, vec![deleted]));
    let writer = case.clone();
    let later = tokio::spawn(async move { writer.commit(vec![], vec![writer.put("w/3", "1")]).await });
    let (revision, _) = next_changes(&mut watch).await;
    assert_eq!(revision, later.await.unwrap());
    // The same again, from the history.
    let mut again = case.watch("w/", start).await;
    assert_eq!(next_changes(&mut again).await.0, both);
    assert_eq!(next_changes(&mut again).await.0, gone);
    assert_eq!(next_changes(&mut again).await.0, revision);
}

pub(crate) async fn progress_is_reported_without_changes(case: Case) {
    let start = case.commit(vec![], vec![case.put("quiet/0", "0")]).await;
    let mut watch = case.watch("quiet/", start).await;
    for round in 0..3 {
        let last = case.commit(vec![], vec![case.put("loud", &round.to_string())]).await;
        loop {
            let event = watch.next().await.unwrap();
            let WatchEvent::Progress { revision } = event else { panic!("nothing changed there: {event:?}") };
            if revision >= last {
                break;
            }
        }
    }
}

pub(crate) async fn changes_never_follow_their_progress(case: Case) {
    const ROUNDS: usize = 300;
    let start = case.commit(vec![], vec![case.put("in/0", "0")]).await;
    let mut watch = case.watch("in/", start).await;
    let writers = ["in/1", "out/1", "in/2", "out/2"].map(|key| {
        let case = case.clone();
        tokio::spawn(async move {
            for round in 0..ROUNDS {
                case.commit(vec![], vec![case.put(key, &round.to_string())]).await;
            }
        })
    });
    let (mut seen, mut reported) = (0, start);
    while seen < 2 * ROUNDS {
        match watch.next().await.unwrap() {
            WatchEvent::Changes { revision, changes } => {
                assert!(revision > reported, "{revision} after {reported}");
                reported = revision;
                seen += changes.len();
            }
            WatchEvent::Progress { revision } => {
                assert!(revision >= reported, "{revision} after {reported}");
                reported = revision;
            }
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

pub(crate) async fn a_dropped_wait_loses_nothing(case: Case) {
    const ROUNDS: usize = 300;
    let start = case.commit(vec![], vec![case.put("a", "0")]).await;
    let mut watch = case.watch("a", start).await;
    let writer = case.clone();
    let written = tokio::spawn(async move {
        let mut revisions: Vec<Revision> = Vec::new();
        for round in 0..ROUNDS {
            revisions.push(writer.commit(vec![], vec![writer.put("a", &round.to_string())]).await);
        }
        revisions
    });
    let mut seen = Vec::new();
    while seen.len() < ROUNDS {
        let Ok(event) = tokio::time::timeout(Duration::from_micros(50), watch.next()).await else { continue };
        if let WatchEvent::Changes { revision, .. } = event.unwrap() {
            seen.push(revision);
        }
    }
    assert_eq!(seen, written.await.unwrap());
}
