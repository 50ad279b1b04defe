//! How long a call takes, and how far the clocks of this machine and of the server differ.
//!
//! Every answer of an HTTP server says when it was made, in whole seconds (RFC 9110, section 6.6.1). Several answers bound the
//! difference from both sides.

use std::time::Duration;

use chrono::DateTime;
use tokio::time::{Instant, timeout};
use walser_proto::v1 as pb;

use super::reach::millis;
use super::report::Report;
use crate::command::produce::now_ms;
use crate::records::time;
use crate::server::Server;

/// Calls that are measured, and how long it is gone on with them: the first one counts, however long it takes.
const CALLS: usize = 9;
const CALLS_MAX: Duration = Duration::from_secs(2);
/// How long one may take.
const CALL_MAX: Duration = Duration::from_secs(10);
/// A difference that is told, in milliseconds.
const DIFFERENCE_TOLD: i64 = 5_000;
/// A call that takes longer is told.
const CALL_TOLD: Duration = Duration::from_millis(500);

/// A call, in milliseconds since the epoch of this machine's clock.
#[derive(Debug, Clone, Copy)]
struct Answered {
    sent: i64,
    received: i64,
    /// What the server's clock showed in between; rounded down to a second.
    server: i64,
}

pub(super) async fn look(server: &Server, report: &mut Report) {
    let (mut took, mut answered) = (Vec::new(), Vec::new());
    let measuring = Instant::now();
    while took.is_empty() || took.len() < CALLS && measuring.elapsed() < CALLS_MAX {
        let (sent, begun) = (now_ms(), Instant::now());
        let call = timeout(CALL_MAX, server.client.cluster().get_cluster(pb::GetClusterRequest {})).await;
        let Ok(Ok(answer)) = call else { break };
        took.push(begun.elapsed());
        let date = answer.metadata().get("date").and_then(|date| date.to_str().ok());
        if let Some(date) = date.and_then(|date| DateTime::parse_from_rfc2822(date).ok()) {
            answered.push(Answered { sent, received: now_ms(), server: date.timestamp_millis() });
        }
    }
    took.sort_unstable();
    if let Some(median) = took.get(took.len() / 2) {
        let of = if took.len() > 1 { format!(", the median of {}", took.len()) } else { String::new() };
        let text = format!("a call takes {}{of}", millis(*median));
        match *median < CALL_TOLD {
            true => report.fine("roundtrip", text),
            false => {
                report.warned("roundtrip", text, "the server is far away or busy: look at its load and at the network")
            }
        }
    }
    match difference(&answered) {
        None if !answered.is_empty() => report.warned(
            "clock",
            "the answers contradict each other about what the server's clock shows",
            "several servers answer at this address, or one whose clock is being set: compare the clocks of all of them",
        ),
        found => compare(found, report),
    }
}

/// By how many milliseconds the server's clock is ahead of this one: at least and at most. `None`: it is not known, or the
/// answers are of several servers whose clocks differ.
fn difference(answered: &[Answered]) -> Option<(i64, i64)> {
    let least = answered.iter().map(|call| call.server - call.received).max()?;
    let most = answered.iter().map(|call| call.server + 999 - call.sent).min()?;
    (least <= most).then_some((least, most))
}

fn compare(difference: Option<(i64, i64)>, report: &mut Report) {
    let Some((least, most)) = difference else {
        return report.fine("clock", "the server does not say what its clock shows");
    };
    let help = "set the clocks by NTP (chrony, systemd-timesyncd) on both machines: records carry the time of the machine \
                that writes them, and retention, `--from` with a time and certificates go by it";
    let (far, way) = if least > 0 { (least, "ahead of") } else { (-most, "behind") };
    match far {
        ..=0 => report.fine("clock", "the clocks of this machine and of the server differ by less than a second"),
        far if far < DIFFERENCE_TOLD => {
            report.fine("clock", format!("the server's clock is {} {way} that of this machine", shown(far)));
        }
        far => report.warned("clock", format!("the server's clock is {} {way} that of this machine", shown(far)), help),
    }
}

fn shown(millis: i64) -> String {
    if millis < 1000 { format!("{millis} ms") } else { time::duration(millis) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_bound_the_difference_from_both_sides() {
        let call = |sent, received, server| Answered { sent, received, server };
        assert_eq!(difference(&[]), None);
        assert_eq!(difference(&[call(1_400, 1_410, 1_000)]), Some((-410, 599)));
        // The second of the server's clock ends between these two.
        assert_eq!(difference(&[call(1_400, 1_410, 1_000), call(1_990, 2_004, 2_000)]), Some((-4, 599)));
        assert_eq!(difference(&[call(1_000, 1_010, 11_000)]), Some((9_990, 10_999)));
        assert_eq!(difference(&[call(0, 1, 0), call(2, 3, 60_000)]), None, "two servers");
    }

    #[test]
    fn only_clocks_that_are_far_apart_are_told() {
        for (difference, told) in [((-400, 590), false), ((3_000, 3_999), false), ((9_000, 9_999), true)] {
            let mut report = Report::default();
            compare(Some(difference), &mut report);
            assert_eq!(!report.troubles().is_empty(), told, "{difference:?}");
        }
        let mut report = Report::default();
        compare(Some((-7_210_000, -7_209_000)), &mut report);
        assert_eq!(report.troubles(), [("clock", "the server's clock is 2h behind that of this machine")]);
    }
}
