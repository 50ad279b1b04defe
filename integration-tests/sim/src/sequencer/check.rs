//! What must hold: of every record, of every caller, and of the order in a log.

use std::collections::BTreeMap;
use std::time::Duration;

use walser_sequencer::{Effect, Outcome};

use super::Tally;
use super::leader::Why;

/// How late a caller may be answered: the grace of the drivers, and their ticks.
const LATE_MAX: Duration = Duration::from_millis(200);

/// The batches of one driver for one partition: they keep an order.
pub(super) type LaneId = (usize, u8);

/// What a caller was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Written,
    None,
    Maybe,
    /// The gateway that it waited for is gone.
    Nothing,
}

#[derive(Debug)]
struct Call {
    lane: LaneId,
    deadline: Duration,
    records: Vec<u64>,
    told: Option<Told>,
}

/// Everything that was submitted, and what became of it.
#[derive(Debug, Default)]
pub(super) struct Check {
    calls: Vec<Call>,
    /// By record: its call, and whether it is in a log.
    records: Vec<(usize, bool)>,
    /// The last record of each lane in its log.
    last: BTreeMap<LaneId, u64>,
    /// Calls that are not answered, by deadline.
    open: BTreeMap<(Duration, usize), ()>,
    pub(super) tally: Tally,
}

impl Check {
    /// A caller submits `count` records. Returns the call and the records.
    pub(super) fn submit(&mut self, lane: LaneId, deadline: Duration, count: usize) -> (usize, Vec<u64>) {
        let call = self.calls.len();
        let first = self.records.len() as u64;
        let records: Vec<u64> = (first..first + count as u64).collect();
        self.records.extend(records.iter().map(|_| (call, false)));
        self.calls.push(Call { lane, deadline, records: records.clone(), told: None });
        self.open.insert((deadline, call), ());
        (call, records)
    }

    /// Calls of a driver that are not answered.
    pub(super) fn open_calls(&self, driver: usize) -> impl Iterator<Item = usize> {
        self.open.keys().map(|(_, call)| *call).filter(move |call| self.calls[*call].lane.0 == driver)
    }

    /// Records are appended to a log. `ordered`: not so late that nothing could keep their order.
    pub(super) fn appended(&mut self, records: &[u64], ordered: bool) -> Result<(), String> {
        for record in records {
            let (call, in_log) = &mut self.records[usize::try_from(*record).expect("an index")];
            if std::mem::replace(in_log, true) {
                return Err(format!("record {record} is written twice"));
            }
            let call = &self.calls[*call];
            if call.told == Some(Told::None) {
                return Err(format!("record {record} is written, and its caller was told that it never is"));
            }
            let last = self.last.entry(call.lane).or_insert(0);
            if !ordered {
                continue;
            }
            if *last > *record {
                return Err(format!("record {record} is written behind {last}, which was submitted later"));
            }
            *last = *record;
        }
        Ok(())
    }

    /// A caller is told the outcome.
    pub(super) fn told(
        &mut self,
        now: Duration,
        call: usize,
        outcome: &Outcome<i64, Why>,
        logs: impl Fn(u8, usize) -> Option<u64>,
    ) -> Result<(), String> {
        let Call { lane, deadline, records, told } = &mut self.calls[call];
        if let Some(told) = told {
            return Err(format!("call {call} is told {outcome:?} after {told:?}"));
        }
        self.open.remove(&(*deadline, call));
        let written = records.iter().any(|record| self.records[usize::try_from(*record).expect("an index")].1);
        *told = Some(match outcome {
            Outcome::Written { answer, first_record } => {
                let first = usize::try_from(answer + first_record).map_err(|_| "a negative offset".to_owned())?;
                for (offset, record) in (first..).zip(records.iter()) {
                    if logs(lane.1, offset) != Some(*record) {
                        return Err(format!(
                            "record {record} is not at offset {offset}, where its caller was told it is"
                        ));
                    }
                }
                self.tally.written += 1;
                Told::Written
            }
            Outcome::Failed { effect: Effect::None, .. } if written => {
                return Err(format!("call {call} is told that nothing is written, and some of it is"));
            }
            Outcome::Failed { effect: Effect::None, .. } => {
                self.tally.none += 1;
                Told::None
            }
            Outcome::Failed { effect: Effect::Applied, .. } if !written => {
                return Err(format!("call {call} is told that it is written, and it is not"));
            }
            Outcome::Failed { effect: Effect::Applied, .. } => Told::Written,
            Outcome::Failed { effect: Effect::Maybe, .. } => {
                self.tally.maybe += 1;
                Told::Maybe
            }
        });
        if now > *deadline + LATE_MAX {
            return Err(format!("call {call} is answered at {now:?}, its deadline was {deadline:?}"));
        }
        Ok(())
    }

    /// A driver is gone, and its callers with it.
    pub(super) fn gone(&mut self, driver: usize) {
        let calls: Vec<usize> = self.open_calls(driver).collect();
        for call in calls {
            self.calls[call].told = Some(Told::Nothing);
            self.open.remove(&(self.calls[call].deadline, call));
        }
    }

    /// Every caller whose time is over has been answered.
    pub(super) fn in_time(&self, now: Duration) -> Result<(), String> {
        match self.open.first_key_value() {
            Some(((deadline, call), ())) if now > *deadline + LATE_MAX => {
                Err(format!("call {call} is not answered at {now:?}, its deadline was {deadline:?}"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn open_count(&self) -> usize {
        self.open.len()
    }
}
