use super::*;

fn gateway(name: &str) -> GatewayId {
    name.parse().unwrap()
}

fn attach_of(of: &MemberRef, gateway: Option<&str>) -> Attach {
    let gateway = gateway.map(|name| name.parse().unwrap());
    Attach { member: of.clone(), subscription: None, revocation_timeout: None, gateway }
}

impl Tested {
    fn attach_at(&mut self, of: &MemberRef, gateway: Option<&str>) -> Result<MemberRef, GroupError> {
        let attached = self.run(|shard, now, out| shard.attach(now, attach_of(of, gateway), out))?;
        Ok(MemberRef { attachment: attached.attachment, ..of.clone() })
    }

    fn report(&mut self, name: &str, hosted: &[&MemberRef]) {
        let hosted = hosted.iter().map(|of| (of.group.clone(), of.member.clone())).collect();
        self.run(|shard, now, out| shard.gateway_report(now, &gateway(name), &hosted, out));
    }

    /// Whom the last requests told that an attachment of theirs is over.
    fn superseded(&mut self) -> Vec<(String, i64)> {
        let over = std::mem::take(&mut self.notices).into_iter();
        let over = over.filter(|notice| notice.content == NoticeContent::Superseded);
        over.map(|notice| (notice.gateway.to_string(), notice.attachment.0)).collect()
    }
}

#[test]
fn a_gateway_is_told_when_its_member_attaches_elsewhere_polls_or_leaves_by_its_token() {
    let mut tested = Tested::new(vec![present("orders", 1, 2)]);
    let first = tested.join("a", &["orders"]);
    assert_eq!(tested.superseded(), []);
    let second = tested.attach_at(&first, Some("other")).unwrap();
    assert_eq!(tested.superseded(), [("gateway".to_owned(), first.attachment.0)]);
    let third = tested.attach_at(&second, Some("other")).unwrap();
    assert_eq!(tested.superseded(), [("other".to_owned(), second.attachment.0)], "its stream before");
    let poll = tested.attach_at(&third, None).unwrap();
    assert_eq!(tested.superseded(), [("other".to_owned(), third.attachment.0)]);
    // As `LeaveGroup` does; nobody but the poll has had the member.
    let last = tested.attach_at(&poll, None).unwrap();
    tested.run(|shard, now, out| shard.leave(now, &last, RemovalCause::Left, false, out)).unwrap();
    assert_eq!(tested.superseded(), []);
    assert_eq!(tested.phase(), GroupPhase::Empty);
}

#[test]
fn a_member_that_is_heard_of_is_not_away() {
    let mut tested = Tested::new(vec![present("orders", 1, 2)]);
    let a = tested.join("a", &["orders"]);
    tested.sleep(SECOND);
    // The answer is on its way for longer than such an answer takes, and the gateway does not name the member.
    tested.report("gateway", &[]);
    tested.sleep(SECOND * 2 / 5);
    tested.run(|shard, now, _| shard.heartbeat(now, &a)).unwrap();
    tested.sleep(SECOND * 5);
    assert_eq!(tested.current(&a).assigned.len(), 2);
    tested.report("gateway", &[&a]);
    tested.sleep(SECOND * 14);
    tested.report("gateway", &[]);
    tested.sleep(SECOND * 3 / 5);
    assert_eq!(tested.phase(), GroupPhase::Empty, "it is really away");
}

#[test]
fn a_stream_that_breaks_before_its_client_knows_its_token_leaves_the_one_before_good() {
    let mut tested = Tested::new(vec![present("orders", 1, 2)]);
    let first = tested.join("a", &["orders"]);
    tested.run(|shard, now, _| shard.heartbeat(now, &first)).unwrap();
    // The gateway has heard of the attachment, and its client has not.
    let broken = tested.attach(&first).unwrap();
    tested.run(|shard, now, _| shard.heartbeat(now, &broken)).unwrap();
    assert_eq!(reason(tested.attach(&first)), "MEMBER_FENCED", "the stream is open");
    tested.run(|shard, now, out| shard.detach(now, &broken, DetachGrace::Session, out)).unwrap();
    let again = tested.attach(&first).unwrap();
    tested.run(|shard, now, _| shard.heartbeat(now, &again)).unwrap();
    // Or it has read it after all.
    tested.run(|shard, now, out| shard.detach(now, &again, DetachGrace::Session, out)).unwrap();
    tested.attach(&broken).unwrap();
    assert_eq!(tested.current(&first).assigned.len(), 2);
}

#[test]
fn a_member_whose_gateway_has_lost_many_streams_keeps_its_time_though_no_report_names_it() {
    let mut tested = Tested::new(vec![present("orders", 1, 2)]);
    let a = tested.join("a", &["orders"]);
    tested.sleep(SECOND);
    tested.run(|shard, now, out| shard.detach(now, &a, DetachGrace::Session, out)).unwrap();
    tested.report("gateway", &[]);
    tested.sleep(SECOND * 14);
    let again = tested.attach(&a).unwrap();
    assert_eq!(tested.current(&again).assigned.len(), 2);
}

#[test]
fn of_two_times_that_a_member_may_stay_away_the_shorter_counts() {
    let mut tested = Tested::new(vec![present("orders", 1, 2)]);
    let a = tested.join("a", &["orders"]);
    for grace in [DetachGrace::Session, DetachGrace::Brief, DetachGrace::Session] {
        tested.run(|shard, now, out| shard.detach(now, &a, grace, out)).unwrap();
    }
    tested.sleep(SECOND * 3 / 5);
    assert_eq!(tested.phase(), GroupPhase::Empty);
}
