//! What the log of the process says of members, and when.

use std::fmt::{Debug, Write as _};

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::*;

/// Keeps what is said.
#[derive(Debug, Clone, Default)]
struct SaidLines(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, "{}={value:?} ", field.name());
    }
}

impl Subscriber for SaidLines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().ends_with("member_log")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl SaidLines {
    /// Whether something is said of a member.
    fn name(&self, member: &str) -> bool {
        self.0.lock().iter().any(|line| line.contains(&format!("member={member} ")))
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_is_told_of_once_its_join_is_replicated() {
    let lines = SaidLines::default();
    // With two of them, what other tests do first on their threads does not decide what is heard here.
    let (kept, _second) = (tracing::Dispatch::new(lines.clone()), tracing::Dispatch::new(lines.clone()));
    let _said = tracing::dispatcher::set_default(&kept);
    let log = MemoryLog::default();
    let tested = Tested::new(&log, 1).loaded().await;
    log.refuse(1);
    assert!(tested.join("g", "lost").await.is_err());
    let tested = tested.loaded().await;
    log.hold();
    let (told, answer) = oneshot::channel();
    let handle = |shard: &mut GroupShard, now, out: &mut _| shard.join(now, join("g", "m"), out).map_err(refused);
    tested.shard.submit(None, handle, |answer| drop(told.send(answer))).await;
    settle().await;
    assert!(!lines.name("m"), "it is on its way");
    log.go_on();
    answer.await.unwrap().unwrap();
    assert!(lines.name("m") && !lines.name("lost"), "{lines:?}");
}
