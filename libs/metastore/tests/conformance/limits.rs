//! Limits of a request: what is exactly at one is carried out, what is one over it is refused.

use walser_metastore::{
    Compare, OPERATIONS_MAX, Op, Outcome, REQUEST_BYTES_MAX, RangeRequest, StoreError, Txn, request_bytes,
};

use super::Case;

/// A transaction that creates keys, with as many compares and changes as asked.
fn txn(case: &Case, compares: usize, changes: usize) -> Txn {
    let name = |number: usize| format!("n/{number:04}");
    Txn {
        compares: (0..compares).map(|number| case.missing(&name(number))).collect(),
        ops: (0..changes).map(|number| case.put(&name(number), "1")).collect(),
    }
}

/// Makes the last value so long that the whole transaction is estimated at this many bytes.
fn filled(mut txn: Txn, bytes: usize) -> Txn {
    let missing = bytes - request_bytes(&txn);
    let Some(Op::Put { value, .. }) = txn.ops.last_mut() else { panic!("the last change is a put") };
    *value = vec![b'x'; value.len() + missing].into();
    assert_eq!(request_bytes(&txn), bytes);
    txn
}

pub(crate) async fn compares_and_changes_are_limited_each_by_itself(case: Case) {
    let max = OPERATIONS_MAX;
    for (compares, changes, what) in [(max + 1, 1, "compares"), (0, max + 1, "changes"), (max + 1, max, "compares")] {
        let refused = case.store.transact(txn(&case, compares, changes)).await;
        assert_eq!(refused, Err(StoreError::TooLarge { what, count: max + 1, limit: max }));
    }
    assert!(case.store.range(case.range("n/", 1, None)).await.unwrap().entries.is_empty(), "nothing was applied");
    let both = case.store.transact(txn(&case, max, max)).await.unwrap();
    assert!(matches!(both, Outcome::Committed(_)), "{both:?}");
    assert_eq!(case.store.range(case.range("n/", 1_000, None)).await.unwrap().entries.len(), max);
    let again = case.store.transact(txn(&case, max, max)).await.unwrap();
    assert!(matches!(again, Outcome::Conflict { .. }), "{again:?}");
}

pub(crate) async fn bytes_of_a_transaction_are_limited(case: Case) {
    let limit = REQUEST_BYTES_MAX;
    for (compares, changes) in [(0, 1), (OPERATIONS_MAX, OPERATIONS_MAX)] {
        let over = case.store.transact(filled(txn(&case, compares, changes), limit + 1)).await;
        assert_eq!(over, Err(StoreError::TooLarge { what: "bytes", count: limit + 1, limit }));
        let at = case.store.transact(filled(txn(&case, compares, changes), limit)).await.unwrap();
        assert!(matches!(at, Outcome::Committed(_)), "{at:?}");
        let delete = |number: usize| case.delete(&format!("n/{number:04}"));
        case.commit(vec![], (0..changes).map(delete).collect()).await;
    }
    // Keys count, too, and those of compares twice.
    let key = "k".repeat(limit / 2);
    let compare = Compare::Missing(case.key(&key));
    let refused = case.store.transact(Txn { compares: vec![compare], ops: vec![case.put("a", "1")] }).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { what: "bytes", .. })), "{refused:?}");
}

pub(crate) async fn a_range_asks_for_one_entry_at_least(case: Case) {
    case.commit(vec![], vec![case.put("a", "1"), case.put("b", "1")]).await;
    let none = case.store.range(case.range("", 0, None)).await;
    assert!(matches!(none, Err(StoreError::Invalid(_))), "{none:?}");
    let page = case.store.range(RangeRequest { limit: 1, ..case.range("", 0, None) }).await.unwrap();
    assert_eq!((page.entries.len(), page.more), (1, true));
}
