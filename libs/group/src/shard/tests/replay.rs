use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// What may happen, in numbers from which a request is drawn.
fn requests() -> impl Strategy<Value = Vec<(u8, u8, u8, u8)>> {
    vec((0_u8..14, 0_u8..6, any::<u8>(), 0_u8..3), 0..120)
}

/// Does what the numbers say. Refusals are fine.
fn request(tested: &mut Tested, members: &mut [MemberRef; 6], (kind, who, value, group): (u8, u8, u8, u8)) {
    let slot = usize::from(who);
    let of = members[slot].clone();
    let to = offset(partition(1 + value % 3, i32::from(value % 5)), i64::from(value));
    match kind {
        0..=2 => {
            let subscription = match value % 4 {
                0 => Subscription { pattern: Some("t.".to_owned()), ..Subscription::default() },
                _ => Subscription {
                    topics: BTreeSet::from([format!("t{}", value % 3).parse().unwrap()]),
                    ..Subscription::default()
                },
            };
            let instance = (value % 5 == 0).then(|| format!("i{who}").parse().unwrap());
            let group = format!("g{group}").parse().unwrap();
            let member = format!("m{who}-{}", tested.log.len());
            let join = Join { group, instance, subscription, ..join(&member, &[]) };
            if let Ok(joined) = tested.try_join(join) {
                members[slot] = joined;
            }
        }
        3 => members[slot] = tested.attach(&of).unwrap_or(of),
        4 => drop(tested.run(|shard, now, out| shard.detach(now, &of, DetachGrace::Brief, out))),
        5 => drop(tested.run(|shard, now, out| shard.leave(now, &of, RemovalCause::Left, value % 2 == 0, out))),
        6 | 7 => {
            let revoking = tested.current(&of).revoking;
            drop(tested.run(|shard, now, out| shard.release(now, &of, &revoking, out)));
        }
        8 => drop(tested.commit(&of, tested.current(&of).epoch.0, to)),
        9 => drop(tested.simple_commit(&format!("g{group}"), to)),
        10 => {
            let change = present(&format!("t{}", value % 3), 1 + value % 4, i32::from(value % 7));
            tested.run(|shard, now, out| shard.topics_changed(now, vec![change], out));
        }
        11 => tested.sleep(Duration::from_millis(u64::from(value) * 100)),
        12 => drop(tested.run(|shard, now, out| shard.reset_offsets(now, &of.group, vec![to], value % 2 == 0, out))),
        _ => drop(tested.run(|shard, _, out| shard.delete_group(&of.group, out))),
    }
}

fn encoded(event: &Event) -> Event {
    let bytes = event.encode();
    Event::decode(&bytes.key, bytes.value.as_deref()).unwrap().unwrap()
}

fn replayed<'a>(events: impl IntoIterator<Item = &'a Event>) -> GroupShard {
    let mut shard = GroupShard::new(Config::default());
    events.into_iter().for_each(|event| shard.replay(encoded(event)));
    shard
}

/// The newest value of each key, in the order of the log; tombstones go as well.
fn compacted(log: &[Event]) -> Vec<&Event> {
    let newest: BTreeMap<Vec<u8>, usize> = log.iter().enumerate().map(|(at, event)| (event.encode().key, at)).collect();
    let survives = |(at, event): &(usize, &Event)| {
        let bytes = event.encode();
        newest[&bytes.key] == *at && bytes.value.is_some()
    };
    log.iter().enumerate().filter(survives).map(|(_, event)| event).collect()
}

fn check_one_owner(shard: &GroupShard) {
    for group in shard.state.groups().values() {
        let held: Vec<_> = group.members.values().flat_map(|member| member.current.held()).collect();
        assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), held.len(), "a partition has two owners");
        assert!(group.members.values().all(|member| member.record.is_some() && member.attachment.is_some()));
        assert!(group.record.is_some());
    }
}

/// By member: its gateway, if it has one, and the number of its attachment.
fn attachments(shard: &GroupShard) -> BTreeMap<(GroupId, MemberId), (GatewayId, AttachmentNumber)> {
    let of_group = |(id, group): (&GroupId, &Group)| {
        let known = |(member, known): (&MemberId, &Member)| {
            let record = known.attachment.as_ref()?;
            Some(((id.clone(), member.clone()), (record.gateway.clone()?, record.number)))
        };
        group.members.iter().filter_map(known).collect::<Vec<_>>()
    };
    shard.state.groups().iter().flat_map(of_group).collect()
}

/// Whoever has lost a member since was told so.
fn check_told(before: &BTreeMap<(GroupId, MemberId), (GatewayId, AttachmentNumber)>, tested: &Tested) {
    let numbers = |shard: &GroupShard, group: &GroupId, member: &MemberId| {
        shard.state.member(group, member).map(Member::attachment_number)
    };
    for ((group, member), (gateway, number)) in before {
        let told = tested.notices.iter().any(|notice| {
            let over = matches!(notice.content, NoticeContent::Removed(_) | NoticeContent::Superseded);
            over && notice.attachment == *number && notice.gateway == *gateway && notice.member == *member
        });
        assert!(told || numbers(&tested.shard, group, member) == Some(*number), "{gateway} reads on for {member}");
    }
}

proptest! {
    #[test]
    fn a_replay_gives_the_state_after_every_request(requests in requests(), cut in any::<prop::sample::Index>()) {
        let mut tested = Tested::new(vec![present("t0", 1, 3), present("t1", 2, 2)]);
        let nobody = MemberRef {
            group: "g0".parse().unwrap(), member: "x".parse().unwrap(), instance: None, attachment: AttachmentNumber(0),
        };
        let mut members = std::array::from_fn(|_| nobody.clone());
        let mut batches = vec![0];
        for drawn in requests {
            let before = attachments(&tested.shard);
            tested.notices.clear();
            request(&mut tested, &mut members, drawn);
            check_told(&before, &tested);
            batches.push(tested.log.len());
            check_one_owner(&tested.shard);
        }
        prop_assert!(tested.shard.same_state(&replayed(&tested.log)));
        // What is compacted up to any batch, and whole from there on.
        let clean = batches[cut.index(batches.len())];
        let log: Vec<&Event> = compacted(&tested.log[..clean]).into_iter().chain(&tested.log[clean..]).collect();
        prop_assert!(tested.shard.same_state(&replayed(log)));
        // A successor that starts on a batch that was cut anywhere repairs it, and what it writes gives its state.
        let mut log: Vec<Event> = tested.log[..cut.index(tested.log.len() + 1)].to_vec();
        let (mut successor, mut out) = (replayed(&log), Output::default());
        successor.start(tested.now, vec![present("t0", 1, 3)], &mut out);
        check_one_owner(&successor);
        log.extend(out.events);
        prop_assert!(successor.same_state(&replayed(&log)));
    }

    #[test]
    fn bytes_of_anybody_are_an_event_or_an_error(key in vec(any::<u8>(), 0..60), value in vec(any::<u8>(), 0..120), kind in 0_u8..10) {
        let key: Vec<u8> = std::iter::once(kind).chain(key).collect();
        let value: Vec<u8> = std::iter::once(1).chain(value).collect();
        if let Ok(Some(event)) = Event::decode(&key, Some(&value)) {
            prop_assert_eq!(&encoded(&event), &event);
            let mut shard = GroupShard::new(Config::default());
            shard.replay(event);
            shard.start(Now::default(), Vec::new(), &mut Output::default());
        }
        drop(Event::decode(&value, None));
    }
}

#[test]
fn every_cut_and_every_flip_of_an_event_is_an_error_or_another_event() {
    let mut tested = Tested::new(vec![present("t0", 1, 3), present("t1", 2, 2)]);
    let a = tested.join("a", &["t0", "t1"]);
    tested.join("b", &["t0"]);
    tested.commit(&a, 1, offset(partition(2, 0), 9)).unwrap();
    tested.run(|shard, now, out| shard.leave(now, &a, RemovalCause::Left, false, out)).unwrap();
    for event in &tested.log {
        let bytes = event.encode();
        let Some(value) = bytes.value else { continue };
        for cut in 0..value.len() {
            assert!(Event::decode(&bytes.key, Some(&value[..cut])).is_err());
        }
        for at in 0..value.len() {
            let mut flipped = value.clone();
            flipped[at] ^= 0xff;
            drop(Event::decode(&bytes.key, Some(&flipped)));
        }
        let longer = [&value[..], &[0]].concat();
        assert!(Event::decode(&bytes.key, Some(&longer)).is_err());
        let later = [&[2], &value[1..]].concat();
        assert!(Event::decode(&bytes.key, Some(&later)).unwrap_err().to_string().contains("upgrade"));
    }
    assert_eq!(Event::decode(&[99, 1, 2], Some(&[7])), Ok(None), "a kind of a later version");
    let highest = [&[1][..], &i64::MAX.to_be_bytes()].concat();
    assert!(Event::decode(&[1], Some(&highest)).is_err(), "it could not be counted up");
}
