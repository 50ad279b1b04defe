use super::*;

#[test]
fn a_follower_is_behind_by_what_it_has_not_acknowledged_and_since_it_had_everything() {
    let (mut led, _) = start(partition(&[1, 2, 3], &[1, 2], 2), Durability::PageCache);
    let lags = |led: &Led| led.leader.lags(Offset(led.log.end)).collect::<Vec<_>>();
    let lag =
        |node, offsets, seconds| FollowerLag { node: NodeId(node), offsets, behind: Duration::from_secs(seconds) };
    assert_eq!(lags(&led), [lag(2, None, 0), lag(3, None, 0)], "nobody has said what it has");
    step(&mut led, open(2, 1, 10, 3));
    assert_eq!(lags(&led), [lag(3, None, 0)]);
    step(&mut led, tick(5000));
    appended(&mut led, 17);
    step(&mut led, ack(2, 1, 10, 10));
    step(&mut led, tick(9000));
    assert_eq!(lags(&led).len(), 2);
    assert_eq!((lags(&led)[0].node, lags(&led)[0].offsets), (NodeId(2), Some(7)));
    assert_eq!(lags(&led)[1], lag(3, None, 9));
    step(&mut led, sent(2, 1, 17));
    step(&mut led, ack(2, 1, 17, 17));
    assert_eq!(lags(&led), [lag(3, None, 9)]);
}
