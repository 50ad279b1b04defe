//! Starts that other terminals have asked for: role by role, each once the one before serves.

use std::collections::VecDeque;

use clap::ValueEnum as _;
use tokio::time::Instant;

use super::{Pending, Supervisor};
use crate::cli::ClusterRole;
use crate::command::cluster::control::{ControlAction, ControlRefusal, ControlRequest};
use crate::command::cluster::layout::ClusterProcess;
use crate::command::cluster::lost_members::EtcdMembers;

/// Processes that are being started, role by role.
#[derive(Debug)]
pub(super) struct Starting {
    /// All that are meant.
    pub(super) chosen: Vec<usize>,
    /// Of the role that is started now.
    pub(super) waiting: Vec<usize>,
    /// Those that come after them.
    pub(super) later: VecDeque<ClusterRole>,
    /// When the first of these was started.
    pub(super) begun: Instant,
    /// Those that a cluster can do without do not end the start, as long as others of their role serve.
    pub(super) spares: bool,
    /// Those that did not come up, and why.
    pub(super) missing: Vec<(usize, String)>,
}

// === impl Supervisor ===

impl Supervisor {
    /// What a start has come to.
    pub(super) fn outcome(&self, starting: Starting) -> Result<Vec<ClusterProcess>, ControlRefusal> {
        let Starting { chosen, missing, .. } = starting;
        let known = |index: &usize| missing.iter().any(|(missing, _)| missing == index);
        let stopped = chosen.iter().filter(|index| self.children[**index].is_none() && !known(index));
        let stopped = stopped.map(|index| format!("{} came up and is down again", self.processes[*index].name()));
        let why: Vec<_> = missing.iter().map(|(_, why)| why.clone()).chain(stopped).collect();
        if why.is_empty() {
            return Ok(chosen.iter().map(|index| self.processes[*index].clone()).collect());
        }
        Err(format!("{}\n  all others run", why.join("\n")).into())
    }

    /// Begins a start, if that is what is asked for.
    pub(super) fn take(&mut self, request: &ControlRequest) -> Result<Option<Starting>, ControlRefusal> {
        if request.action != ControlAction::Start {
            return Ok(None);
        }
        self.note_ended();
        Ok(Some(Starting { spares: request.id.is_none(), ..self.begin(self.chosen(request)?) }))
    }

    pub(super) fn begin(&self, chosen: Vec<usize>) -> Starting {
        let later = ClusterRole::value_variants().iter().copied().collect();
        Starting { chosen, waiting: Vec::new(), later, begun: Instant::now(), spares: false, missing: Vec::new() }
    }

    /// Goes on with a start: true when everything serves.
    pub(super) fn advance(&mut self, starting: &mut Starting) -> Result<bool, String> {
        loop {
            while let Some(index) = starting.waiting.last().copied() {
                match self.serves(index, starting.begun) {
                    Ok(true) => {}
                    Ok(false) => return Ok(false),
                    Err(why) if starting.spares && self.is_spare(index, starting) => {
                        starting.missing.push((index, why))
                    }
                    Err(why) => return Err(why),
                }
                starting.waiting.pop();
            }
            EtcdMembers(&self.directory).note_formed().map_err(|error| error.what().to_owned())?;
            let Some(role) = starting.later.pop_front() else { return Ok(true) };
            starting.waiting = self.of_role(&starting.chosen, role);
            starting.begun = Instant::now();
            self.leave_out_lost(starting)?;
            // What another start has begun meanwhile is waited for.
            for index in starting.waiting.iter().filter(|index| self.children[**index].is_none()).collect::<Vec<_>>() {
                self.spawn(*index).map_err(|error| format!("{}: {error}", self.processes[*index].name()))?;
            }
        }
    }

    /// Takes out those that must not be started. Of all at once: the first that starts has data.
    fn leave_out_lost(&self, starting: &mut Starting) -> Result<(), String> {
        for index in starting.waiting.clone() {
            let lost = EtcdMembers(&self.directory).lost(&self.processes[index], &self.processes);
            let Some(why) = lost.map_err(|error| error.what().to_owned())? else { continue };
            if !starting.spares || !self.is_spare(index, starting) {
                return Err(why);
            }
            starting.missing.push((index, why));
            starting.waiting.retain(|waiting| *waiting != index);
        }
        Ok(())
    }

    /// Whether the cluster can do without one that has not come up: most of its role have, or may yet.
    fn is_spare(&self, index: usize, starting: &Starting) -> bool {
        let role = self.processes[index].role;
        let all = self.of_role(&self.all(), role).len();
        let missing = starting.missing.iter().filter(|(missing, _)| self.processes[*missing].role == role).count() + 1;
        matches!(role, ClusterRole::Etcd | ClusterRole::StorageNode) && 2 * missing < all
    }

    /// Ends the starts of what a stop has meant that does not run now: what is behind it would be started all the same.
    pub(super) fn end_starts_of(&self, stop: &ControlRequest, pending: &mut Vec<Pending>) {
        let stopped = |index: &&usize| stop.means(&self.processes[**index]) && self.children[**index].is_none();
        for (asked, starting) in std::mem::take(pending) {
            let ended = starting.chosen.iter().filter(stopped);
            let names: Vec<_> = ended.map(|index| self.processes[*index].name()).collect();
            if names.is_empty() {
                pending.push((asked, starting));
                continue;
            }
            let why = format!("{} was stopped before all of them served; nothing more is started", names.join(", "));
            asked.answer(Err(why.into()));
        }
    }
}
