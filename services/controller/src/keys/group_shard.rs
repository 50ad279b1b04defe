//! `shards/groups/{shard}`: which coordinator has a shard of groups.

const PREFIX: &str = "shards/groups/";

pub(crate) fn key(shard: i32) -> String {
    format!("{PREFIX}{shard:010}")
}

/// The shard in a key.
pub(crate) fn parse(key: &str) -> Option<i32> {
    key.strip_prefix(PREFIX)?.parse().ok()
}

#[test]
fn keys_are_read_as_they_are_written() {
    assert_eq!(key(3), "shards/groups/0000000003");
    assert_eq!(parse(&key(15)), Some(15));
    assert_eq!(parse("shards/queues/0000000003"), None, "of a newer version");
}
