use super::*;

#[test]
fn a_commit_needs_the_partition_in_the_epoch_in_which_it_was_assigned() {
    let mut tested = Tested::new(vec![present("orders", 1, 2)]);
    let a = tested.join("a", &["orders"]);
    tested.commit(&a, 1, offset(partition(1, 0), 5)).unwrap();
    let b = tested.join("b", &["orders"]);
    let moved = *tested.current(&a).revoking.keys().next().unwrap();
    tested.commit(&a, 1, offset(moved, 7)).unwrap();
    tested.release(&a);
    assert_eq!(reason(tested.commit(&a, 1, offset(moved, 8))), "PARTITION_NOT_OWNED");
    assert_eq!(reason(tested.commit(&b, 1, offset(moved, 8))), "PARTITION_NOT_OWNED", "epoch 1 was before");
    tested.commit(&b, 2, offset(moved, 8)).unwrap();
    let stays = *tested.current(&a).assigned.keys().next().unwrap();
    tested.commit(&a, 1, offset(stays, 9)).unwrap();
    assert_eq!(reason(tested.commit(&a, 3, offset(stays, 9))), "MEMBER_FENCED", "an epoch that there is not");
    let committed = tested.shard.committed(&a.group, &moved).unwrap();
    assert_eq!(
        (committed.offset, committed.leader_epoch, &*committed.metadata),
        (Offset(8), Some(LeaderEpoch(3)), "m")
    );
}

#[test]
fn a_poll_that_is_repeated_has_committed_what_it_has_released() {
    let mut tested = Tested::new(vec![present("orders", 1, 2)]);
    let first = tested.try_join(Join { gateway: None, ..join("a", &["orders"]) }).unwrap();
    let poll = |tested: &mut Tested, of: &MemberRef| {
        let attach = Attach { member: of.clone(), subscription: None, revocation_timeout: None, gateway: None };
        let attached = tested.run(|shard, now, out| shard.attach(now, attach, out)).unwrap();
        MemberRef { attachment: attached.attachment, ..of.clone() }
    };
    let epoch = tested.current(&first).epoch.0;
    let other = tested.join("b", &["orders"]);
    let moving = *tested.current(&first).revoking.keys().next().unwrap();
    let lost = poll(&mut tested, &first);
    tested.commit(&lost, epoch, offset(moving, 7)).unwrap();
    tested.release(&lost);
    // The other one goes on before the poll comes again.
    let next = tested.current(&other).epoch.0;
    tested.commit(&other, next, offset(moving, 9)).unwrap();
    for _ in 0..2 {
        let again = poll(&mut tested, &first);
        tested.commit(&again, epoch, offset(moving, 7)).unwrap();
        assert_eq!(reason(tested.commit(&again, epoch, offset(moving, 8))), "PARTITION_NOT_OWNED");
        tested.release(&again);
    }
    let committed = tested.shard.committed(&first.group, &moving).unwrap().offset;
    assert_eq!(committed, Offset(9), "a repetition changes nothing");
    let answered = poll(&mut tested, &first);
    let second = poll(&mut tested, &answered);
    assert_eq!(reason(tested.commit(&second, epoch, offset(moving, 7))), "PARTITION_NOT_OWNED", "not a repetition");
}

#[test]
fn an_older_commit_of_the_same_attachment_is_refused() {
    let mut tested = Tested::new(vec![present("orders", 1, 1)]);
    let a = tested.join("a", &["orders"]);
    let mut commit = |sequence, to| {
        let author = CommitAuthor { member: a.clone(), epoch: GroupEpoch(1), sequence };
        let commit =
            Commit { author: Some(author), group: a.group.clone(), offsets: vec![offset(partition(1, 0), to)] };
        tested.run(|shard, now, out| shard.commit(now, commit, out))
    };
    commit(2, 60).unwrap();
    assert_eq!(reason(commit(1, 50)), "STALE_EPOCH");
    commit(2, 60).unwrap();
}

#[test]
fn bad_commits_get_precise_answers() {
    let mut tested = Tested::new(vec![present("orders", 1, 2)]);
    let a = tested.join("a", &["orders"]);
    let large = OffsetToCommit { metadata: "x".repeat(4_097), ..offset(partition(1, 0), 1) };
    assert_eq!(reason(tested.commit(&a, 1, large)), "OFFSET_METADATA_TOO_LARGE");
    assert_eq!(reason(tested.commit(&a, 1, offset(partition(1, 0), -1))), "FIELD_INVALID");
    let unknown = MemberRef { member: "nobody".parse().unwrap(), ..a.clone() };
    assert_eq!(reason(tested.commit(&unknown, 1, offset(partition(1, 0), 1))), "SESSION_EXPIRED");
    assert_eq!(reason(tested.simple_commit("g", offset(partition(1, 0), 1))), "GROUP_NOT_EMPTY");
    assert_eq!(reason(tested.simple_commit("h", offset(partition(9, 0), 1))), "TOPIC_NOT_FOUND");
    let missing = tested.simple_commit("h", offset(partition(1, 2), 1)).unwrap_err();
    assert_eq!(missing.reason(), "PARTITION_NOT_FOUND");
    assert_eq!(missing.to_string(), "topic orders has 2 partitions; there is no partition 2");
}

#[test]
fn offsets_expire_only_in_a_group_without_members() {
    let mut tested = Tested::new(vec![present("orders", 1, 1)]);
    let a = tested.join("a", &["orders"]);
    tested.commit(&a, 1, offset(partition(1, 0), 5)).unwrap();
    let day = SECOND * 24 * 3600;
    for _ in 0..80_000 {
        tested.sleep(SECOND * 10);
        tested.run(|shard, now, _| shard.heartbeat(now, &a)).unwrap();
    }
    tested.run(|shard, now, out| shard.leave(now, &a, RemovalCause::Left, false, out)).unwrap();
    tested.sleep(day * 6);
    let mut tested = tested.with_wall_clock_of_successor(day * 6);
    assert!(tested.shard.committed(&a.group, &partition(1, 0)).is_some());
    tested.sleep(day * 2);
    assert_eq!(tested.shard.groups(None).count(), 0);
    assert!(tested.shard.same_state(&replayed_after(&tested)));
}

#[test]
fn a_group_without_offsets_expires_soon_and_a_deleted_one_at_once() {
    let mut tested = Tested::new(vec![present("orders", 1, 1)]);
    let a = tested.join("a", &["orders"]);
    assert_eq!(reason(tested.run(|shard, _, out| shard.delete_group(&a.group, out))), "GROUP_NOT_EMPTY");
    tested.run(|shard, now, out| shard.leave(now, &a, RemovalCause::Left, false, out)).unwrap();
    tested.simple_commit("h", offset(partition(1, 0), 5)).unwrap();
    // Neither does in the first hour of its coordinator.
    tested.sleep(SECOND * 600);
    assert_eq!(tested.shard.groups(None).count(), 2);
    tested.sleep(SECOND * 3_000);
    let left: Vec<_> = tested.shard.groups(None).collect();
    assert_eq!(left.len(), 1);
    assert!(!left[0].had_members);
    tested.run(|shard, _, out| shard.delete_group(&"h".parse().unwrap(), out)).unwrap();
    assert_eq!(reason(tested.run(|shard, _, out| shard.delete_group(&a.group, out))), "GROUP_NOT_FOUND");
}

#[test]
fn offsets_are_moved_and_forgotten_by_operators() {
    let mut tested = Tested::new(vec![present("orders", 1, 2)]);
    let a = tested.join("a", &["orders"]);
    tested.commit(&a, 1, offset(partition(1, 0), 50)).unwrap();
    let to = vec![offset(partition(1, 0), 10)];
    let group = a.group.clone();
    let refused = tested.run(|shard, now, out| shard.reset_offsets(now, &group, to.clone(), false, out));
    assert_eq!(reason(refused), "GROUP_NOT_EMPTY");
    let moves = tested.run(|shard, now, out| shard.reset_offsets(now, &group, to, true, out)).unwrap();
    assert_eq!(moves, [OffsetMove { partition: partition(1, 0), before: Some(Offset(50)), after: Offset(10) }]);
    assert_eq!(indexes(&tested.current(&a).assigned), [(0, 2), (1, 1)], "assigned again, in a later epoch");
    assert_eq!(reason(tested.commit(&a, 1, offset(partition(1, 0), 60))), "PARTITION_NOT_OWNED");
    tested.commit(&a, 2, offset(partition(1, 0), 11)).unwrap();
    tested.run(|shard, now, out| shard.leave(now, &a, RemovalCause::Left, false, out)).unwrap();
    let topics = BTreeSet::from([topic(1)]);
    tested.run(|shard, now, out| shard.delete_offsets(now, &group, &topics, out)).unwrap();
    assert_eq!(tested.shard.all_committed(&group).count(), 0);
}

#[test]
fn a_forced_reset_does_not_wait_for_the_interval_between_assignments() {
    let mut tested = Tested::with(Config::default(), Vec::new(), vec![present("orders", 1, 2)]);
    let a = tested.join("a", &["orders"]);
    tested.join("b", &["orders"]);
    assert_eq!(tested.phase(), GroupPhase::Assigning);
    let to = vec![offset(partition(1, 0), 10)];
    tested.run(|shard, now, out| shard.reset_offsets(now, &a.group, to, true, out)).unwrap();
    assert_eq!(tested.commit(&a, 1, offset(partition(1, 0), 60)).unwrap_err().reason(), "PARTITION_NOT_OWNED");
    assert_eq!(tested.current(&a).held_since(&partition(1, 0)), None, "it is to be that of the other, or comes later");
}

#[test]
fn a_clock_that_is_days_ahead_expires_nothing_before_there_was_time_to_set_it_right() {
    let mut tested = Tested::new(vec![present("orders", 1, 1)]);
    tested.simple_commit("h", offset(partition(1, 0), 5)).unwrap();
    let month = 30 * 24 * 3_600_000;
    tested.now.wall += month;
    let mut tested = tested.with_wall_clock_of_successor(SECOND);
    tested.sleep(SECOND * 3_599);
    assert_eq!(tested.shard.groups(None).count(), 1);
    tested.now.wall -= month;
    tested.sleep(SECOND * 3_600);
    assert_eq!(tested.shard.groups(None).count(), 1, "it was set right");
    tested.now.wall += month;
    tested.sleep(SECOND * 24 * 3600 * 7);
    assert_eq!(tested.shard.groups(None).count(), 0);
}

#[test]
fn where_a_group_has_all_offsets_that_it_may_have_those_of_topics_that_are_gone_make_room() {
    let config = Config { group_offsets_max: 3, ..Config::default() };
    let known = || vec![present("orders", 1, 2), present("later", 2, 2)];
    let mut tested = Tested::with(config, Vec::new(), known());
    for (topic, index) in [(1, 0), (1, 1), (2, 0)] {
        tested.simple_commit("h", offset(partition(topic, index), 5)).unwrap();
    }
    tested.sleep(SECOND * 3_600);
    assert_eq!(reason(tested.simple_commit("h", offset(partition(2, 1), 5))), "QUOTA_EXCEEDED", "all topics are there");
    // A successor has heard of one topic only: the other one may be new.
    let mut tested = tested.take_over(vec![present("later", 2, 2)]);
    tested.sleep(SECOND * 3_599);
    assert_eq!(reason(tested.simple_commit("h", offset(partition(2, 1), 5))), "QUOTA_EXCEEDED");
    let group: GroupId = "h".parse().unwrap();
    assert_eq!(tested.shard.all_committed(&group).count(), 3);
    // By now it is gone.
    tested.sleep(SECOND);
    tested.simple_commit("h", offset(partition(2, 0), 6)).unwrap();
    assert_eq!(tested.shard.all_committed(&group).count(), 3, "nothing has to go for what is there");
    tested.simple_commit("h", offset(partition(2, 1), 5)).unwrap();
    let left: Vec<_> = tested.shard.all_committed(&group).map(|(partition, _)| *partition).collect();
    assert_eq!(left, [partition(2, 0), partition(2, 1)]);
    assert!(tested.shard.same_state(&replayed_after(&tested)));
}

#[test]
fn a_reset_has_the_same_room_as_a_commit() {
    let config = Config { group_offsets_max: 1, ..Config::default() };
    let mut tested = Tested::with(config, Vec::new(), vec![present("orders", 1, 1), present("later", 2, 1)]);
    tested.simple_commit("h", offset(partition(1, 0), 5)).unwrap();
    tested.sleep(SECOND * 3_600);
    let absent = TopicChange::Absent { name: "orders".parse().unwrap() };
    tested.run(|shard, now, out| shard.topics_changed(now, vec![absent], out));
    let to = vec![offset(partition(2, 0), 10)];
    tested.run(|shard, now, out| shard.reset_offsets(now, &"h".parse().unwrap(), to, false, out)).unwrap();
}

fn replayed_after(tested: &Tested) -> GroupShard {
    let mut shard = GroupShard::new(Config::default());
    tested.log.iter().for_each(|event| shard.replay(event.clone()));
    shard
}

impl Tested {
    fn with_wall_clock_of_successor(self, later: Duration) -> Self {
        let wall = self.now.wall;
        let mut next = Self { shard: GroupShard::new(self.shard.config), log: self.log, ..Self::new(Vec::new()) };
        next.log.iter().for_each(|event| next.shard.replay(event.clone()));
        next.now = Now { monotonic: later, wall };
        next.run(|shard, now, out| shard.start(now, vec![present("orders", 1, 1)], out));
        next
    }
}
