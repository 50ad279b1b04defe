use super::*;

fn member() -> MemberRef {
    MemberRef {
        group: "g".parse().unwrap(),
        member: "m".parse().unwrap(),
        instance: Some("i".parse().unwrap()),
        attachment: AttachmentNumber(7),
    }
}

fn partition(topic: u8, number: i32) -> TopicPartition {
    TopicPartition::new(TopicId::from_bytes([topic; 16]), PartitionIndex(number))
}

fn current() -> CurrentAssignment {
    let assigned =
        [(partition(1, 0), GroupEpoch(3)), (partition(1, 2), GroupEpoch(4)), (partition(2, 0), GroupEpoch(3))];
    CurrentAssignment {
        epoch: GroupEpoch(4),
        assigned: assigned.into(),
        revoking: [(partition(2, 1), GroupEpoch(1))].into(),
    }
}

#[test]
fn every_request_arrives_as_it_was_sent() {
    let gateway: GatewayId = "gateway".parse().unwrap();
    let topics = BTreeSet::from(["t".parse().unwrap()]);
    let subscription =
        Subscription { topics, pattern: Some("a.*".to_owned()), assignor: Some("range".parse().unwrap()) };
    let offset = OffsetToCommit {
        partition: partition(1, 0),
        offset: Offset(5),
        leader_epoch: Some(LeaderEpoch(2)),
        metadata: "x".to_owned(),
    };
    let author = Some(CommitAuthor { member: member(), epoch: GroupEpoch(4), sequence: 9 });
    let requests = [
        MemberRequest::Join(Box::new(Join {
            group: "g".parse().unwrap(),
            member: "m".parse().unwrap(),
            instance: None,
            client_id: "c".to_owned(),
            client_address: "1.2.3.4:5".to_owned(),
            subscription: subscription.clone(),
            session_timeout: Duration::from_millis(15_500),
            revocation_timeout: Duration::from_secs(30),
            gateway: Some(gateway.clone()),
        })),
        MemberRequest::Attach(Box::new(Attach {
            member: member(),
            subscription: Some(subscription),
            revocation_timeout: Some(Duration::from_secs(7)),
            gateway: Some(gateway.clone()),
        })),
        MemberRequest::Release { member: member(), released: current().assigned },
        MemberRequest::Commit(Commit { author, group: "g".parse().unwrap(), offsets: vec![offset] }),
        MemberRequest::Heartbeat(member()),
        MemberRequest::Detach { member: member(), grace: DetachGrace::Session },
        MemberRequest::Leave { member: member(), cause: RemovalCause::ProcessingTimeout, keep_static_assignment: true },
        MemberRequest::Report([("g".parse().unwrap(), "m".parse().unwrap())].into()),
        MemberRequest::Alive,
        MemberRequest::Offsets { group: "g".parse().unwrap(), partitions: vec![partition(1, 0), partition(2, 3)] },
    ];
    for request in requests {
        let sent = format!("{request:?}");
        let message = request_message(3, 4, request);
        assert_eq!((message.epoch, message.correlation_id), (3, 4));
        assert_eq!(format!("{:?}", member_request_of_message(message, &gateway).unwrap()), sent);
    }
}

#[test]
fn every_answer_and_notice_arrives_as_it_was_sent() {
    let committed =
        CommittedOffset { offset: Offset(5), leader_epoch: None, metadata: "x".to_owned(), committed_at: 1_000 };
    let refused = ApiError::new(Reason::PartitionNotOwned, "moved").with("partition", 2);
    for answer in [
        MemberAnswer::Attached(Attached {
            attachment: AttachmentNumber(8),
            current: current(),
            session_timeout: Duration::from_secs(6),
        }),
        MemberAnswer::Assignment(current()),
        MemberAnswer::Committed(vec![(partition(1, 2), refused)]),
        MemberAnswer::Offsets(vec![(partition(1, 0), Some(committed)), (partition(1, 1), None)]),
        MemberAnswer::Done,
    ] {
        let message = member_answer_message(3, 4, Ok(answer.clone()));
        assert_eq!(answer_of_response(message.response.unwrap()).unwrap(), answer);
    }
    let gateway: GatewayId = "gateway".parse().unwrap();
    let removed = NoticeContent::Removed(RemovalCause::Fenced);
    for content in [NoticeContent::Assignment(current()), removed, NoticeContent::Superseded] {
        let MemberRef { group, member, attachment, .. } = member();
        let notice = Notice { gateway: gateway.clone(), group, member, attachment, content };
        let Some(Response::Notice(message)) = member_notice_message(3, &notice).response else { panic!("no notice") };
        assert_eq!(notice_of_message(message, &gateway).unwrap(), notice);
    }
}

#[test]
fn what_is_no_request_is_refused() {
    let gateway: GatewayId = "gateway".parse().unwrap();
    let refused = |request: Option<Request>| {
        let message = pbi::MemberSessionRequest { epoch: 1, correlation_id: 1, request };
        member_request_of_message(message, &gateway).unwrap_err().reason()
    };
    assert_eq!(refused(None), Reason::StreamProtocolViolation);
    assert_eq!(refused(Some(Request::Heartbeat(pbi::MemberHeartbeat::default()))), Reason::FieldInvalid);
    let again = open_message(0, &gateway, 1).request;
    assert_eq!(refused(again), Reason::StreamProtocolViolation);
    let topic = pbi::TopicPartitions { topic_id: vec![1; 16].into(), partitions: vec![1, 2], epochs: vec![1] };
    let release = pbi::MemberRelease { member: Some(member_name(&member())), released: vec![topic] };
    assert_eq!(refused(Some(Request::Release(release))), Reason::FieldInvalid);
    let subscription = Some(pbi::MemberSubscription { assignor: "sticky".to_owned(), ..Default::default() });
    let attach = pbi::MemberAttach {
        member: Some(member_name(&member())),
        subscription,
        revocation_timeout: None,
        polls: false,
    };
    assert_eq!(refused(Some(Request::Attach(attach))), Reason::AssignorUnsupported);
}
