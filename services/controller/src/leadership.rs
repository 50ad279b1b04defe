//! Which controller decides: the one that holds `election/controller` by its lease.
//!
//! Every decision compares the creation revision of that key, so that a controller that was deposed writes nothing
//! although it does not know yet (rule of the election guard in `docs/replication.md`). The lease is for liveness only.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use walser_metastore::{Compare, KeyValue, LeaseId, Metastore, Revision, StoreError};
use walser_rpc::{ApiError, NO_ELECTION, Outage, Reason};
use walser_service::Metrics;

use crate::error::store_failure;
use crate::store_problems::StoreProblems;

/// Name of the election.
const ELECTION: &str = "controller";
/// The key of the leader.
pub(crate) const KEY: &str = "election/controller";
/// How long the lead lasts after the last sign of life.
const LEASE: Duration = Duration::from_secs(3);
/// Time between two signs of life.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// So long after the last confirmed sign of life was sent, another controller may lead before this one hears of it. Less
/// than [`LEASE`] by what clocks and stores are late.
const SURE: Duration = Duration::from_secs(2);
/// A leader whose view cannot follow the store for so long gives the lead to another controller.
const BLIND_MAX: Duration = Duration::from_secs(5);
/// At a clean stop the store gets so long to take the lease back.
const RESIGN: Duration = Duration::from_secs(1);
/// The key of the election is read within this time: the lease has to be renewed meanwhile.
const READ_MAX: Duration = Duration::from_millis(700);
/// Renewals that a campaign waits for without failing before it counts as one that waits for its turn.
const WAITS: u32 = 3;
/// A controller that has stepped aside stands for election again when nobody has led for so long: no other one wants to.
const NOBODY_LEADS: Duration = Duration::from_secs(1);
/// And after this long in any case.
const STAND_BACK_MAX: Duration = Duration::from_secs(5);
/// How often it looks meanwhile.
const STAND_BACK_LOOK: Duration = Duration::from_millis(100);
/// Pause before the next attempt after the store gave no answer.
const RETRY: Duration = Duration::from_millis(200);

/// The lead of this process. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct ControllerLead {
    store: Arc<dyn Metastore>,
    candidate: Arc<str>,
    key: Arc<str>,
    /// Creation revision of the key; 0: this controller does not lead.
    epoch: Arc<AtomicI64>,
    /// When the last sign of life was sent that the store has confirmed.
    confirmed: Arc<Mutex<Option<Instant>>>,
    /// The revision that this controller's view includes: it decides nothing before it has seen what the one before it has
    /// decided.
    seen: Arc<AtomicI64>,
    /// Since when the view does not follow the store; `None`: it does.
    blind: Arc<Mutex<Option<Instant>>>,
    won: Arc<Notify>,
    /// The controller epoch that is to be given up: another one may be the better leader.
    aside: Arc<watch::Sender<Revision>>,
    /// The lease by which it leads or waits.
    lease: Arc<Mutex<Option<LeaseId>>>,
    /// Why it could not lead or be elected when it tried last.
    trouble: Arc<Mutex<Option<String>>>,
    problems: StoreProblems,
}

impl ControllerLead {
    /// Not the leader yet. `candidate`: unique for each start of a controller. `problems`: what the store says of itself.
    pub(crate) fn new(store: Arc<dyn Metastore>, candidate: &str, problems: StoreProblems) -> Self {
        Self {
            store,
            candidate: candidate.into(),
            key: KEY.into(),
            epoch: Arc::default(),
            confirmed: Arc::default(),
            seen: Arc::default(),
            blind: Arc::new(Mutex::new(Some(Instant::now()))),
            won: Arc::default(),
            aside: Arc::new(watch::Sender::new(0)),
            lease: Arc::default(),
            trouble: Arc::default(),
            problems,
        }
    }

    /// Shows whether this controller leads, or could.
    pub(crate) fn show(&self, metrics: &Metrics) {
        let lead = self.clone();
        let help = "1 while this controller leads: of all controllers of a cluster one does.";
        metrics.gauge_of("walser_controller_active", help, move || usize::from(lead.epoch().is_ok()));
        let lead = self.clone();
        let help = "1 while this controller does not lead and could not, for what it knows of the metadata store.";
        let cannot = move || usize::from(lead.epoch().is_err() && lead.obstacle().is_some());
        metrics.gauge_of("walser_controller_cannot_lead", help, cannot);
    }

    /// The controller epoch.
    ///
    /// # Errors
    /// `CONTROLLER_NOT_AVAILABLE` while another controller leads, or none; when the store has not confirmed the lease for
    /// so long that another one may; and until the view includes all that was decided before.
    pub(crate) fn epoch(&self) -> Result<Revision, ApiError> {
        let not_leading = || {
            let text = match self.obstacle() {
                Some(obstacle) => format!("this controller does not lead: {obstacle}; nothing was done"),
                None => "this controller does not lead at present; nothing was done, try again".to_owned(),
            };
            let error = ApiError::new(Reason::ControllerNotAvailable, text);
            if self.problems.takes_no_writes().is_some() { error.with(NO_ELECTION, true) } else { error }
        };
        let leads =
            |epoch: &Revision| *epoch > 0 && *epoch <= self.seen.load(Ordering::Acquire) && self.confirmed(LEASE);
        Some(self.epoch.load(Ordering::Acquire)).filter(leads).ok_or_else(not_leading)
    }

    /// Why this controller could not begin to lead now, as far as it knows.
    pub(crate) fn obstacle(&self) -> Option<String> {
        if self.is_blind_for(KEEP_ALIVE) {
            return Some("the metadata store does not answer it, look at the store and at the way there".to_owned());
        }
        if let Some(why) = self.problems.takes_no_writes() {
            return Some(format!("the metadata store takes no writes: {why}"));
        }
        let trouble = self.trouble.lock();
        trouble.as_ref().map(|why| format!("it cannot be elected: {why}, look at the metadata store"))
    }

    /// The condition that the controller of an epoch still leads.
    pub(crate) fn guard(&self, epoch: Revision) -> Compare {
        Compare::CreatedAt(self.key.to_string(), epoch)
    }

    /// Whether no other controller can lead: this one does, and its lease cannot be over. One that is in doubt fences nobody,
    /// and promises nothing.
    pub(crate) fn is_sure(&self) -> bool {
        self.epoch().is_ok() && self.confirmed(SURE)
    }

    /// Whether the store has confirmed a sign of life that was sent within `limit`.
    fn confirmed(&self, limit: Duration) -> bool {
        self.confirmed.lock().is_some_and(|sent| sent.elapsed() < limit)
    }

    /// The view includes everything up to a revision.
    pub(crate) fn note_seen(&self, revision: Revision) {
        self.seen.fetch_max(revision, Ordering::AcqRel);
        self.won.notify_waiters();
    }

    /// Whether the view follows the store.
    pub(crate) fn note_following(&self, follows: bool) {
        let mut blind = self.blind.lock();
        *blind = if follows { None } else { blind.or_else(|| Some(Instant::now())) };
        drop(blind);
        self.won.notify_waiters();
    }

    /// Waits until the view follows the store: who cannot see decides nothing.
    async fn until_following(&self) {
        while self.blind.lock().is_some() {
            let noted = self.won.notified();
            if self.blind.lock().is_none() {
                return;
            }
            // Looked at again in any case.
            let _ = tokio::time::timeout(KEEP_ALIVE, noted).await;
        }
    }

    /// Whether the view could not follow the store for so long.
    pub(crate) fn is_blind_for(&self, limit: Duration) -> bool {
        self.blind.lock().is_some_and(|since| since.elapsed() >= limit)
    }

    /// Keeps the lease by which it leads, and looks whether it does, as the inner outcome says. False: the key of the election is
    /// not its own any more; somebody has deleted that, and every decision would be refused for it.
    async fn keep(&self, lease: LeaseId) -> Result<Result<bool, StoreError>, StoreError> {
        self.store.keep_alive(lease).await?;
        let late = |_| StoreError::Unavailable("the key of the election is not read in time".to_owned());
        let read = tokio::time::timeout(READ_MAX, self.store.get(&self.key)).await.map_err(late);
        let own = |holder: KeyValue| holder.create_revision == self.epoch.load(Ordering::Acquire);
        Ok(read.and_then(|read| read).map(|(holder, _)| holder.is_some_and(own)))
    }

    /// Lets another one lead, or this one once more.
    async fn give_up(&self, lease: LeaseId, why: &str) {
        tracing::warn!("this controller gives up the lead: {why}");
        self.epoch.store(0, Ordering::Release);
        if let Err(error) = self.store.revoke(lease).await {
            tracing::warn!(%error, "the lease was not revoked; it ends by itself");
        }
    }

    /// Gives up the lead of an epoch, and lets all others stand for election first.
    pub(crate) fn step_aside(&self, epoch: Revision) {
        self.aside.send_replace(epoch);
    }

    /// Waits until the present lead is to be given up.
    async fn asked_aside(&self) {
        let mut aside = self.aside.subscribe();
        let _ = aside.wait_for(|epoch| *epoch > 0 && *epoch == self.epoch.load(Ordering::Acquire)).await;
    }

    /// Waits until all others have had the chance to lead. One that is elected, and steps aside for the same reason, is
    /// followed by the next one; whoever stands aside first stands for election first when there is none.
    async fn stand_back(&self) {
        let (begun, mut free) = (Instant::now(), None);
        while begun.elapsed() < STAND_BACK_MAX {
            let read = tokio::time::timeout(READ_MAX, self.store.get(&self.key)).await;
            // Where the store does not answer, somebody may lead.
            free = matches!(read, Ok(Ok((None, _)))).then(|| free.unwrap_or_else(Instant::now));
            if free.is_some_and(|since: Instant| since.elapsed() >= NOBODY_LEADS) {
                return;
            }
            tokio::time::sleep(STAND_BACK_LOOK).await;
        }
    }

    /// Leads no more, and stands for election no more: another one leads at once, instead of when the lease is over. To be
    /// called when nothing runs any more that leads.
    pub(crate) async fn resign(&self) {
        self.epoch.store(0, Ordering::Release);
        let lease = self.lease.lock().take();
        if let Some(lease) = lease {
            let revoked = tokio::time::timeout(RESIGN, self.store.revoke(lease)).await;
            if !matches!(revoked, Ok(Ok(()))) {
                tracing::info!("the lease of this controller was not revoked; it ends by itself");
            }
        }
    }

    /// Waits until this controller leads.
    pub(crate) async fn leads(&self) {
        while self.epoch().is_err() {
            let won = self.won.notified();
            if self.epoch().is_ok() {
                return;
            }
            won.await;
        }
    }

    /// Becomes the leader, and returns the lease by which it is. Another one may lead for long: until then the lease of
    /// this one is kept.
    async fn win(&self) -> Result<LeaseId, StoreError> {
        loop {
            let lease = self.store.grant(LEASE).await?;
            *self.lease.lock() = Some(lease);
            let won = tokio::select! {
                won = self.store.campaign(ELECTION, &self.candidate, lease) => won,
                () = self.keep_while_waiting(lease) => Err(StoreError::NoLease(lease)),
            };
            let won = match won {
                Err(StoreError::NoLease(_)) => continue,
                won => won?,
            };
            debug_assert_eq!(won.key, *self.key, "decisions compare the key of the election");
            self.epoch.store(won.epoch, Ordering::Release);
            tracing::info!(controller_epoch = won.epoch, "this controller leads");
            self.won.notify_waiters();
            return Ok(lease);
        }
    }

    /// Keeps a lease until it is over.
    async fn keep_while_waiting(&self, lease: LeaseId) {
        for waited in 0_u32.. {
            if waited == WAITS {
                // It would have failed by now.
                *self.trouble.lock() = None;
            }
            tokio::time::sleep(KEEP_ALIVE).await;
            if let Err(StoreError::NoLease(_)) = self.store.keep_alive(lease).await {
                return;
            }
        }
    }

    fn works(&self, outage: &mut Outage) {
        *self.trouble.lock() = None;
        outage.ended();
    }

    async fn fails(&self, outage: &mut Outage, error: StoreError) {
        let error = store_failure(error);
        *self.trouble.lock() = Some(error.message().to_owned());
        outage.failed(&error);
        tokio::time::sleep(RETRY).await;
    }

    /// Wins the lead, keeps it, and wins it again when it was lost, for as long as the process runs.
    pub(crate) async fn run(self) {
        let (mut lease, mut outage) = (None, Outage::of("the lead of this controller"));
        // When it was won, or seen to be held, last.
        let mut seen_at = Instant::now();
        loop {
            if let Some(held) = lease {
                if !self.hold(held, &mut seen_at, &mut outage).await {
                    lease = None;
                }
                continue;
            }
            self.until_following().await;
            match self.win().await {
                Ok(held) => {
                    (lease, seen_at) = (Some(held), Instant::now());
                    self.works(&mut outage);
                }
                Err(error) => self.fails(&mut outage, error).await,
            }
        }
    }

    /// Gives one sign of life, and waits until the next one is due. False: the lead is lost, or given up.
    async fn hold(&self, held: LeaseId, seen_at: &mut Instant, outage: &mut Outage) -> bool {
        let sent = Instant::now();
        match self.keep(held).await {
            Ok(Ok(true)) => {
                *seen_at = sent;
                *self.confirmed.lock() = Some(sent);
                self.won.notify_waiters();
                self.works(outage);
                if self.is_blind_for(BLIND_MAX) {
                    self.give_up(held, "it cannot follow the metadata store").await;
                    return false;
                }
                if tokio::time::timeout_at(sent + KEEP_ALIVE, self.asked_aside()).await.is_ok() {
                    let why = "it hears at most half of the storage nodes in service, and another one may hear more";
                    self.give_up(held, why).await;
                    self.stand_back().await;
                    return false;
                }
                true
            }
            Ok(Ok(false)) => {
                self.give_up(held, "somebody has deleted its key from the election").await;
                false
            }
            Ok(Err(error)) => {
                self.fails(outage, error).await;
                // Nobody else is elected for as long as the lease is kept.
                let unread = seen_at.elapsed() >= BLIND_MAX;
                if unread {
                    self.give_up(held, "it cannot read the metadata store").await;
                }
                !unread
            }
            Err(StoreError::NoLease(_)) => {
                self.epoch.store(0, Ordering::Release);
                tracing::warn!("this controller does not lead any more: its lease ended");
                false
            }
            Err(error) => {
                self.fails(outage, error).await;
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use walser_metastore::{Memory, Op, Txn};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_controller_that_waits_longer_than_a_lease_lasts_leads_when_the_other_one_is_gone() {
        let store: Arc<dyn Metastore> = Arc::new(Memory::new());
        let lead = |candidate| ControllerLead::new(Arc::clone(&store), candidate, StoreProblems::default());
        let (first, second) = (lead("first"), lead("second"));
        let running = tokio::spawn(first.clone().run());
        tokio::time::sleep(KEEP_ALIVE).await;
        assert_eq!(first.epoch.load(Ordering::Acquire), 0, "it does not stand for election before it can see");
        [&first, &second].iter().for_each(|lead| lead.note_following(true));
        first.note_seen(0);
        tokio::time::sleep(KEEP_ALIVE).await;
        assert!(first.epoch().is_err(), "it has not seen what was decided before");
        [&first, &second].iter().for_each(|lead| lead.note_seen(Revision::MAX));
        first.leads().await;
        let epoch = first.epoch().unwrap();
        tokio::spawn(second.clone().run());
        tokio::time::sleep(20 * LEASE).await;
        assert!(first.is_sure() && second.epoch().is_err());
        running.abort();
        second.leads().await;
        assert!(second.epoch().unwrap() > epoch && second.is_sure());
        assert!(first.epoch().is_err(), "nobody has confirmed its lease for longer than that lasts");
        // One that cannot see any more gives the lead back.
        second.note_following(false);
        tokio::time::sleep(BLIND_MAX + 2 * KEEP_ALIVE).await;
        assert!(second.epoch().is_err());
        tokio::spawn(first.clone().run());
        first.leads().await;
    }

    /// Otherwise an upgrade of all controllers leaves the cluster without one for as long as a lease lasts, each time.
    #[tokio::test(start_paused = true)]
    async fn a_controller_that_stops_leaves_no_lease_behind() {
        let store: Arc<dyn Metastore> = Arc::new(Memory::new());
        let lead = |candidate| {
            let lead = ControllerLead::new(Arc::clone(&store), candidate, StoreProblems::default());
            lead.note_following(true);
            lead.note_seen(Revision::MAX);
            lead
        };
        let (leads, waits, next) = (lead("leads"), lead("waits"), lead("next"));
        let leading = tokio::spawn(leads.clone().run());
        leads.leads().await;
        let waiting = tokio::spawn(waits.clone().run());
        tokio::time::sleep(KEEP_ALIVE / 2).await;
        tokio::spawn(next.clone().run());
        tokio::time::sleep(KEEP_ALIVE / 2).await;
        for (task, lead) in [(waiting, &waits), (leading, &leads)] {
            task.abort();
            lead.resign().await;
        }
        let resigned = Instant::now();
        next.leads().await;
        assert!(leads.epoch().is_err() && resigned.elapsed() < KEEP_ALIVE, "{:?}", resigned.elapsed());
    }

    /// Otherwise one that is cut off from the nodes is elected again before the others have had their turn.
    #[tokio::test(start_paused = true)]
    async fn a_controller_that_steps_aside_leads_again_only_when_no_other_one_does() {
        let store: Arc<dyn Metastore> = Arc::new(Memory::new());
        let lead = |candidate| {
            let lead = ControllerLead::new(Arc::clone(&store), candidate, StoreProblems::default());
            lead.note_following(true);
            lead.note_seen(Revision::MAX);
            tokio::spawn(lead.clone().run());
            lead
        };
        let all = [lead("a"), lead("b"), lead("c")];
        let leader = async || {
            loop {
                if let Some(found) = (0..all.len()).find(|number| all[*number].epoch().is_ok()) {
                    return found;
                }
                tokio::time::sleep(STAND_BACK_LOOK / 10).await;
            }
        };
        let mut stepped = Vec::new();
        let begun = Instant::now();
        for _ in 0..all.len() {
            let found = leader().await;
            let epoch = all[found].epoch().unwrap();
            all[found].step_aside(epoch);
            while all[found].epoch() == Ok(epoch) {
                tokio::time::sleep(STAND_BACK_LOOK / 10).await;
            }
            stepped.push(found);
        }
        stepped.sort_unstable();
        assert_eq!(stepped, [0, 1, 2], "each had its turn");
        let last = leader().await;
        assert!(begun.elapsed() < STAND_BACK_MAX, "nobody else wants to: {:?}", begun.elapsed());
        tokio::time::sleep(2 * STAND_BACK_MAX).await;
        assert_eq!(leader().await, last, "what was asked of an earlier lead does not end this one");
    }

    /// A lease that lives on is no proof of leading.
    #[tokio::test(start_paused = true)]
    async fn a_controller_whose_key_somebody_deletes_is_elected_again() {
        let store: Arc<dyn Metastore> = Arc::new(Memory::new());
        let lead = ControllerLead::new(Arc::clone(&store), "it", StoreProblems::default());
        lead.note_following(true);
        lead.note_seen(Revision::MAX);
        tokio::spawn(lead.clone().run());
        for _ in 0..3 {
            lead.leads().await;
            let epoch = lead.epoch().unwrap();
            let ops = vec![Op::Delete { key: KEY.to_owned() }];
            store.transact(Txn { compares: Vec::new(), ops }).await.unwrap();
            while lead.epoch() == Ok(epoch) {
                tokio::time::sleep(KEEP_ALIVE).await;
            }
            lead.leads().await;
            assert!(lead.epoch().unwrap() > epoch);
        }
    }
}
