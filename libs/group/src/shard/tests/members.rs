use super::*;

#[test]
fn the_first_member_gets_everything_at_once() {
    let mut tested = Tested::new(vec![present("orders", 1, 3)]);
    let member = tested.join("a", &["orders", "later"]);
    assert_eq!(indexes(&tested.current(&member).assigned), [(0, 1), (1, 1), (2, 1)]);
    assert_eq!(tested.phase(), GroupPhase::Stable);
    tested.run(|shard, now, out| shard.topics_changed(now, vec![present("later", 2, 1)], out));
    assert!(tested.current(&member).assigned.contains_key(&partition(2, 0)));
    assert!(matches!(tested.notices.last().unwrap().content, NoticeContent::Assignment(_)));
}

#[test]
fn a_partition_moves_only_after_its_owner_has_released_it() {
    let mut tested = Tested::new(vec![present("orders", 1, 4)]);
    let (a, b) = (tested.join("a", &["orders"]), tested.join("b", &["orders"]));
    assert_eq!(indexes(&tested.current(&a).revoking).len(), 2);
    assert!(tested.current(&b).assigned.is_empty());
    assert_eq!((tested.current(&a).epoch.0, tested.current(&b).epoch.0), (1, 2));
    assert_eq!(tested.phase(), GroupPhase::Reconciling);
    let late = tested.current(&a).revoking.keys().map(|partition| (*partition, GroupEpoch(7))).collect();
    tested.run(|shard, now, out| shard.release(now, &a, &late, out)).unwrap();
    assert!(tested.current(&b).assigned.is_empty(), "the release of another assignment is ignored");
    tested.release(&a);
    assert_eq!(tested.current(&b).assigned.len(), 2);
    assert_eq!(tested.current(&a).epoch.0, 2);
    assert_eq!(tested.phase(), GroupPhase::Stable);
}

#[test]
fn of_a_hundred_members_with_900_partitions_one_more_takes_its_share_and_the_rest_stays() {
    let mut tested = Tested::with(Config::default(), Vec::new(), vec![present("orders", 1, 900)]);
    let members: Vec<_> = (0..100).map(|number| tested.join(&format!("m{number:03}"), &["orders"])).collect();
    tested.sleep(SECOND);
    members.iter().for_each(|member| tested.release(member));
    assert_eq!(tested.phase(), GroupPhase::Stable);
    let before: Vec<_> = members.iter().map(|member| tested.current(member).assigned).collect();
    let more = tested.join("one more", &["orders"]);
    let revoking: usize = members.iter().map(|member| tested.current(member).revoking.len()).sum();
    members.iter().for_each(|member| tested.release(member));
    assert_eq!(tested.phase(), GroupPhase::Stable);
    assert_eq!(tested.current(&more).assigned.len(), revoking);
    assert!((8..=9).contains(&revoking));
    for (member, before) in members.iter().zip(before) {
        let kept = tested.current(member).assigned;
        assert!(kept.iter().all(|(partition, epoch)| before.get(partition) == Some(epoch)), "its commits go on");
    }
}

#[test]
fn what_is_being_revoked_is_released_even_when_it_comes_back() {
    let mut tested = Tested::new(vec![present("orders", 1, 2)]);
    let (a, b) = (tested.join("a", &["orders"]), tested.join("b", &["orders"]));
    tested.run(|shard, now, out| shard.leave(now, &b, RemovalCause::Left, false, out)).unwrap();
    assert_eq!(tested.current(&a).revoking.len(), 1, "the target has it again");
    tested.release(&a);
    assert_eq!(indexes(&tested.current(&a).assigned).iter().map(|(_, epoch)| *epoch).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn what_is_not_released_in_time_is_taken() {
    let mut tested = Tested::new(vec![present("orders", 1, 2)]);
    let (a, b) = (tested.join("a", &["orders"]), tested.join("b", &["orders"]));
    for _ in 0..30 {
        tested.run(|shard, now, _| shard.gateway_heartbeat(now, &"gateway".parse().unwrap()));
        assert!(tested.current(&b).assigned.is_empty());
        tested.sleep(SECOND);
    }
    assert_eq!(tested.current(&b).assigned.len(), 1);
    assert_eq!(tested.current(&a).assigned.len(), 1);
}

#[test]
fn a_member_that_comes_back_may_have_another_time_to_release() {
    let mut tested = Tested::new(vec![present("orders", 1, 2)]);
    let a = tested.join("a", &["orders"]);
    let attach = |revocation_timeout| Attach {
        member: a.clone(),
        subscription: None,
        revocation_timeout: Some(revocation_timeout),
        gateway: Some("other".parse().unwrap()),
    };
    let too_long = tested.run(|shard, now, out| shard.attach(now, attach(SECOND * 601), out));
    assert_eq!(reason(too_long), "FIELD_INVALID");
    tested.run(|shard, now, out| shard.attach(now, attach(SECOND * 5), out)).unwrap();
    // Also where another coordinator asks for it.
    let mut tested = tested.take_over(vec![present("orders", 1, 2)]);
    let b = tested.join("b", &["orders"]);
    tested.sleep(SECOND * 4);
    assert!(tested.current(&b).assigned.is_empty());
    tested.sleep(SECOND);
    assert_eq!(tested.current(&b).assigned.len(), 1);
}

#[test]
fn a_session_lasts_while_the_member_or_its_gateway_is_heard() {
    let mut tested = Tested::new(vec![present("orders", 1, 2)]);
    let (a, b) = (tested.join("a", &["orders"]), tested.attach_elsewhere("b"));
    for _ in 0..3 {
        tested.sleep(SECOND * 14);
        tested.run(|shard, now, _| shard.gateway_heartbeat(now, &"gateway".parse().unwrap()));
        tested.run(|shard, now, _| shard.heartbeat(now, &b)).unwrap();
    }
    tested.sleep(SECOND * 14);
    tested.run(|shard, now, _| shard.heartbeat(now, &b)).unwrap();
    tested.sleep(SECOND);
    assert_eq!(reason(tested.run(|shard, now, _| shard.heartbeat(now, &a))), "SESSION_EXPIRED");
    assert_eq!(tested.current(&b).assigned.len(), 2);
    let removed = NoticeContent::Removed(RemovalCause::SessionExpired);
    assert!(tested.notices.iter().any(|notice| notice.content == removed && notice.member == a.member));
}

#[test]
fn a_closed_stream_leaves_a_member_half_a_second() {
    let mut tested = Tested::new(vec![present("orders", 1, 2)]);
    let a = tested.join("a", &["orders"]);
    tested.run(|shard, now, out| shard.detach(now, &a, DetachGrace::Brief, out)).unwrap();
    tested.sleep(SECOND * 2 / 5);
    let again = tested.attach(&a).unwrap();
    tested.sleep(SECOND * 10);
    assert_eq!(tested.current(&again).assigned.len(), 2, "it came back");
    tested.run(|shard, now, out| shard.detach(now, &again, DetachGrace::Brief, out)).unwrap();
    tested.sleep(SECOND * 3 / 5);
    assert_eq!(tested.phase(), GroupPhase::Empty);
    let b = tested.join("b", &["orders"]);
    tested.run(|shard, now, out| shard.detach(now, &b, DetachGrace::Session, out)).unwrap();
    for seconds in [5, 9, 1] {
        assert_eq!(tested.phase(), GroupPhase::Stable);
        tested.run(|shard, now, _| shard.gateway_heartbeat(now, &"gateway".parse().unwrap()));
        tested.sleep(SECOND * seconds);
    }
    assert_eq!(tested.phase(), GroupPhase::Empty, "many streams were lost, and this one did not come back");
}

#[test]
fn a_later_attachment_fences_earlier_ones_also_after_a_takeover() {
    let mut tested = Tested::new(vec![present("orders", 1, 2)]);
    let a = tested.join("a", &["orders"]);
    let again = tested.attach(&a).unwrap();
    assert!(again.attachment > a.attachment);
    let third = tested.attach(&a).unwrap();
    assert!(third.attachment > again.attachment, "the answer was lost");
    tested.run(|shard, now, _| shard.heartbeat(now, &third)).unwrap();
    assert_eq!(reason(tested.attach(&a)), "MEMBER_FENCED");
    let mut tested = tested.take_over(vec![present("orders", 1, 2)]);
    for old in [&a, &again] {
        assert_eq!(reason(tested.commit(old, 1, offset(partition(1, 0), 5))), "MEMBER_FENCED");
        assert_eq!(reason(tested.run(|shard, now, _| shard.heartbeat(now, old))), "MEMBER_FENCED");
    }
    tested.commit(&third, 1, offset(partition(1, 0), 5)).unwrap();
    assert!(tested.attach(&third).unwrap().attachment.0 > ATTACHMENTS_PER_EVENT);
}

#[test]
fn a_repeated_join_is_the_same_member() {
    let mut tested = Tested::new(vec![present("orders", 1, 2)]);
    let first = tested.join("a", &["orders"]);
    let second = tested.join("a", &["orders"]);
    assert!(second.attachment > first.attachment);
    tested.run(|shard, now, _| shard.heartbeat(now, &second)).unwrap();
    assert_eq!(reason(tested.try_join(join("a", &["orders"]))), "MEMBER_FENCED");
}

#[test]
fn a_static_member_has_one_place() {
    let mut tested = Tested::new(vec![present("orders", 1, 2)]);
    let with_instance = |member| Join { instance: Some("i".parse().unwrap()), ..join(member, &["orders"]) };
    let a = tested.try_join(with_instance("a")).unwrap();
    let in_use = tested.try_join(with_instance("b")).unwrap_err();
    assert_eq!(in_use.reason(), "INSTANCE_ID_IN_USE");
    assert!(in_use.to_string().contains("192.0.2.1:9"));
    tested.run(|shard, now, out| shard.leave(now, &a, RemovalCause::Left, true, out)).unwrap();
    tested.sleep(SECOND * 14);
    let mut tested = tested.take_over(vec![present("orders", 1, 2)]);
    let b = tested.try_join(with_instance("b")).unwrap();
    assert_eq!(indexes(&tested.current(&b).assigned), [(0, 1), (1, 1)], "it keeps the partitions and their epoch");
    assert_eq!(tested.phase(), GroupPhase::Stable);
    assert_eq!(reason(tested.run(|shard, now, _| shard.heartbeat(now, &a))), "INSTANCE_FENCED");
    tested.run(|shard, now, out| shard.leave(now, &b, RemovalCause::Left, true, out)).unwrap();
    tested.sleep(SECOND * 15);
    assert_eq!(tested.phase(), GroupPhase::Empty, "nobody took the place in time");
}

/// Whether the instance of "a" is certainly in use.
fn certainly_in_use(tested: &mut Tested) -> bool {
    let join = Join { instance: Some("i".parse().unwrap()), ..join("b", &["orders"]) };
    match tested.try_join(join) {
        Err(GroupError::InstanceIdInUse { certain, .. }) => certain,
        outcome => panic!("{outcome:?}"),
    }
}

#[test]
fn whether_an_instance_is_in_use_is_uncertain_until_its_gateway_has_said_so() {
    let mut tested = Tested::new(vec![present("orders", 1, 2)]);
    let a = tested.try_join(Join { instance: Some("i".parse().unwrap()), ..join("a", &["orders"]) }).unwrap();
    let gateway = "gateway".parse().unwrap();
    assert!(certainly_in_use(&mut tested));
    let mut tested = tested.take_over(vec![present("orders", 1, 2)]);
    // Also the gateway of the member lives, as far as is known: not that it has the member still.
    tested.run(|shard, now, _| shard.gateway_heartbeat(now, &gateway));
    assert!(!certainly_in_use(&mut tested));
    let hosted = BTreeSet::from([(a.group.clone(), a.member.clone())]);
    tested.run(|shard, now, out| shard.gateway_report(now, &gateway, &hosted, out));
    assert!(certainly_in_use(&mut tested));
    tested.run(|shard, _, _| shard.doubt_members());
    assert!(!certainly_in_use(&mut tested), "nobody could be heard for a time");
    tested.run(|shard, now, _| shard.heartbeat(now, &a)).unwrap();
    assert!(certainly_in_use(&mut tested));
    tested.sleep(SECOND * 4);
    assert!(!certainly_in_use(&mut tested), "its gateway is silent");
    tested.run(|shard, now, _| shard.gateway_heartbeat(now, &gateway));
    assert!(certainly_in_use(&mut tested));
}

#[test]
fn a_takeover_revokes_nothing_and_sessions_begin_anew() {
    let mut tested = Tested::new(vec![present("orders", 1, 2)]);
    let (a, b) = (tested.join("a", &["orders"]), tested.join("b", &["orders"]));
    tested.release(&a);
    tested.sleep(SECOND * 14);
    let mut tested = tested.take_over(vec![present("orders", 1, 2)]);
    let events = tested.log.len();
    tested.sleep(SECOND * 14);
    assert_eq!(tested.log.len(), events);
    assert_eq!((tested.current(&a).assigned.len(), tested.current(&b).assigned.len()), (1, 1));
    tested.sleep(SECOND);
    assert_eq!(tested.phase(), GroupPhase::Empty);
}

#[test]
fn changes_between_assignments_are_assigned_together() {
    let mut tested = Tested::with(Config::default(), Vec::new(), vec![present("orders", 1, 100)]);
    let members: Vec<_> = (0..100).map(|number| tested.join(&format!("m{number:03}"), &["orders"])).collect();
    assert_eq!(tested.phase(), GroupPhase::Assigning);
    tested.sleep(SECOND / 10);
    assert_eq!(tested.phase(), GroupPhase::Reconciling);
    tested.release(&members[0]);
    assert_eq!(tested.phase(), GroupPhase::Stable);
    assert!(members.iter().all(|member| tested.current(member).assigned.len() == 1));
    assert_eq!(tested.current(&members[0]).epoch.0, 2);
}

#[test]
fn topics_shrink_go_and_come_again_under_another_id() {
    let mut tested = Tested::new(vec![present("orders", 1, 2)]);
    let a = tested.join("a", &["orders"]);
    tested.commit(&a, 1, offset(partition(1, 0), 5)).unwrap();
    tested.run(|shard, now, out| shard.topics_changed(now, vec![present("orders", 2, 2)], out));
    tested.release(&a);
    assert_eq!(tested.current(&a).assigned.keys().copied().collect::<Vec<_>>(), [partition(2, 0), partition(2, 1)]);
    assert_eq!(tested.shard.committed(&a.group, &partition(2, 0)), None);
    let absent = TopicChange::Absent { name: "orders".parse().unwrap() };
    let mut tested = tested.take_over(vec![absent]);
    assert_eq!(tested.current(&a).revoking.len(), 2);
    tested.release(&a);
    assert_eq!(tested.phase(), GroupPhase::Stable);
    assert!(tested.shard.committed(&a.group, &partition(1, 0)).is_some(), "absence deletes nothing");
}

#[test]
fn a_pattern_follows_the_topics_and_another_subscription_the_token() {
    let mut tested = Tested::new(vec![present("a.1", 1, 1), present("b", 2, 1), present("__a.x", 3, 1)]);
    let pattern = Subscription { pattern: Some(r"a\..*".to_owned()), ..Subscription::default() };
    let a = tested.try_join(Join { subscription: pattern, ..join("a", &[]) }).unwrap();
    tested.run(|shard, now, out| shard.topics_changed(now, vec![present("a.2", 4, 1), present("c", 5, 1)], out));
    let topics =
        |tested: &Tested, of| -> Vec<TopicId> { tested.current(of).assigned.keys().map(|p| p.topic).collect() };
    assert_eq!(topics(&tested, &a), [topic(1), topic(4)]);
    let subscription = Subscription { topics: BTreeSet::from(["b".parse().unwrap()]), ..Subscription::default() };
    let (subscription, gateway) = (Some(subscription), Some("gateway".parse().unwrap()));
    let attach = Attach { member: a.clone(), subscription, revocation_timeout: None, gateway };
    tested.run(|shard, now, out| shard.attach(now, attach, out)).unwrap();
    tested.release(&MemberRef { attachment: AttachmentNumber(2), ..a.clone() });
    assert_eq!(topics(&tested, &a), [topic(2)]);
}

#[test]
fn limits_are_named() {
    let config = Config { group_members_max: 2, groups_max: 2, group_patterns_max: 1, ..Config::default() };
    let mut tested = Tested::with(config, Vec::new(), Vec::new());
    tested.join("a", &["x"]);
    let pattern = |member, pattern: &str| Join {
        subscription: Subscription { pattern: Some(pattern.to_owned()), ..Subscription::default() },
        ..join(member, &[])
    };
    tested.try_join(pattern("b", "y")).unwrap();
    assert_eq!(reason(tested.try_join(pattern("c", "z"))), "QUOTA_EXCEEDED");
    assert_eq!(reason(tested.try_join(join("c", &["x"]))), "GROUP_SIZE_LIMIT_REACHED");
    let of = |group: &str| Join { group: group.parse().unwrap(), ..join("a", &["x"]) };
    tested.try_join(of("h")).unwrap();
    assert_eq!(reason(tested.try_join(of("i"))), "QUOTA_EXCEEDED");
    for bad in [
        Join { session_timeout: SECOND, ..join("d", &["x"]) },
        Join { revocation_timeout: SECOND * 1_000, ..join("d", &["x"]) },
        Join { client_id: "x".repeat(257), ..join("d", &["x"]) },
        join("d", &[]),
    ] {
        assert_eq!(reason(tested.try_join(bad)), "FIELD_INVALID");
    }
}

#[test]
fn an_operator_removes_a_member_by_its_id_or_instance() {
    let mut tested = Tested::new(vec![present("orders", 1, 2)]);
    let a = tested.try_join(Join { instance: Some("i".parse().unwrap()), ..join("a", &["orders"]) }).unwrap();
    let found = tested.shard.member_of_instance(&a.group, &"i".parse().unwrap()).cloned().unwrap();
    tested.run(|shard, now, out| shard.remove_member(now, &a.group, &found, out)).unwrap();
    assert_eq!(tested.notices.last().unwrap().content, NoticeContent::Removed(RemovalCause::Fenced));
    assert_eq!(
        reason(tested.run(|shard, now, out| shard.remove_member(now, &a.group, &found, out))),
        "SESSION_EXPIRED"
    );
    assert_eq!(tested.shard.groups(None).count(), 1);
    assert_eq!(tested.shard.groups(Some(&a.group)).count(), 0);
}

impl Tested {
    fn attach_elsewhere(&mut self, member: &str) -> MemberRef {
        self.try_join(Join { gateway: Some("elsewhere".parse().unwrap()), ..join(member, &["orders"]) }).unwrap()
    }
}

#[test]
fn a_member_that_polls_comes_with_the_last_token_or_the_one_before_until_that_is_used() {
    let mut tested = Tested::new(vec![present("orders", 1, 2)]);
    let first = tested.try_join(Join { gateway: None, ..join("a", &["orders"]) }).unwrap();
    let poll = |tested: &mut Tested, of: &MemberRef| {
        let attach = Attach { member: of.clone(), subscription: None, revocation_timeout: None, gateway: None };
        let attached = tested.run(|shard, now, out| shard.attach(now, attach, out))?;
        Ok::<_, GroupError>(MemberRef { attachment: attached.attachment, ..of.clone() })
    };
    let lost = poll(&mut tested, &first).unwrap();
    let epoch = tested.current(&lost).epoch.0;
    // What the poll itself asks does not say that its answer has arrived.
    tested.commit(&lost, epoch, offset(partition(1, 0), 3)).unwrap();
    tested.run(|shard, now, _| shard.heartbeat(now, &lost)).unwrap();
    let second = poll(&mut tested, &first).unwrap();
    assert_eq!(reason(tested.commit(&lost, epoch, offset(partition(1, 0), 9))), "MEMBER_FENCED");
    let third = poll(&mut tested, &second).unwrap();
    assert_eq!(reason(poll(&mut tested, &first)), "MEMBER_FENCED");
    assert_eq!(reason(poll(&mut tested, &lost)), "MEMBER_FENCED");
    // No gateway keeps it: it stays for its session timeout, and no report takes it away.
    let nothing = BTreeSet::new();
    tested.run(|shard, now, out| shard.gateway_report(now, &"gateway".parse().unwrap(), &nothing, out));
    tested.sleep(SECOND * 14);
    let third = poll(&mut tested, &third).unwrap();
    tested.run(|shard, now, _| shard.gateway_heartbeat(now, &"gateway".parse().unwrap()));
    tested.sleep(SECOND * 16);
    assert_eq!(reason(poll(&mut tested, &third)), "SESSION_EXPIRED");
}

#[test]
fn a_request_that_comes_late_fences_no_client_that_has_had_the_answer_to_another_one() {
    let mut tested = Tested::new(vec![present("orders", 1, 2)]);
    let first = tested.try_join(Join { gateway: None, ..join("a", &["orders"]) }).unwrap();
    let attach = |member: &MemberRef| Attach {
        member: member.clone(),
        subscription: None,
        revocation_timeout: None,
        gateway: None,
    };
    let poll = |tested: &mut Tested, of: &MemberRef| {
        let attached = tested.run(|shard, now, out| shard.attach(now, attach(of), out))?;
        Ok::<_, GroupError>(MemberRef { attachment: attached.attachment, ..of.clone() })
    };
    // Asked three times: the client has the second answer.
    let [lost, second, late] = [0; 3].map(|_| poll(&mut tested, &first).unwrap());
    let third = poll(&mut tested, &second).unwrap();
    for other in [&first, &lost, &late] {
        assert_eq!(reason(poll(&mut tested, other)), "MEMBER_FENCED", "the client goes on from the second one");
    }
    let epoch = tested.current(&third).epoch.0;
    assert_eq!(reason(tested.commit(&late, epoch, offset(partition(1, 0), 9))), "MEMBER_FENCED");
    // A stream that has used its attachment is the only one.
    let stream = tested.attach(&third).unwrap();
    let again = tested.attach(&third).unwrap();
    tested.run(|shard, now, _| shard.heartbeat(now, &again)).unwrap();
    assert_eq!(reason(tested.attach(&stream)), "MEMBER_FENCED");
}

/// Joins, commits and a takeover of ten thousand members cost what their groups cost.
#[test]
fn ten_thousand_members_in_a_thousand_groups() {
    let mut tested = Tested::with(Config::default(), Vec::new(), vec![present("orders", 1, 20)]);
    for number in 0..10_000 {
        let group = format!("g{}", number % 1_000).parse().unwrap();
        tested.try_join(Join { group, ..join(&format!("m{number}"), &["orders"]) }).unwrap();
    }
    tested.run(|shard, now, _| shard.gateway_heartbeat(now, &"gateway".parse().unwrap()));
    tested.sleep(SECOND);
    let members: usize = tested.shard.groups(None).map(|summary| summary.member_count).sum();
    assert_eq!(members, 10_000);
    let mut tested = tested.take_over(vec![present("orders", 1, 20)]);
    tested.sleep(SECOND * 15);
    assert!(tested.shard.groups(None).all(|summary| summary.phase == GroupPhase::Empty));
}
