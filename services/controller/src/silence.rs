//! When a controller fences nodes for their silence, and when it lets another controller lead instead (amendment A8 of the
//! reliability rules). Pure.
//!
//! Silent nodes are fenced one after the other. Of a controller that hears at most half of the nodes in service it is not
//! known whether they are away or it is cut off itself. Where there may be other controllers, it steps aside once: whoever
//! hears more goes on to lead. Where it leads again soon after, nobody else has wanted to for long, so that nobody hears
//! more, and the nodes are away: it fences them.

use std::time::Duration;

use walser_metastore::Revision;

/// Time between two nodes that are fenced for their silence.
const SPACING: Duration = Duration::from_millis(500);
/// A controller that leads again within so many sessions after it has stepped aside does not do so once more.
const ASIDE_SESSIONS: u32 = 5;
/// The same at the least: longer than it stands back (`crate::leadership`), and others have led meanwhile.
const ASIDE_MIN: Duration = Duration::from_secs(10);

/// Nodes in service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InService {
    /// Those that are there: heard lately.
    pub(crate) heard: usize,
    pub(crate) all: usize,
}

/// What is to be done about nodes that are silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing yet.
    Wait,
    /// One of them is fenced, not more.
    FenceOne,
    /// Another controller is to lead.
    StepAside,
}

/// The rule, with what it remembers. Times are monotonic.
#[derive(Debug)]
pub(crate) struct SilenceRule {
    session: Duration,
    /// There may be other controllers.
    others: bool,
    /// The controller epoch of the last look, and when it was first seen.
    term: Revision,
    since: Duration,
    /// In this term nodes are fenced although at most half of them are heard.
    insists: bool,
    /// When a node was fenced last.
    fenced: Option<Duration>,
    /// When this controller stepped aside last, and in which term.
    aside: Option<(Duration, Revision)>,
}

// === impl InService ===

impl InService {
    /// Counts nodes of which it is known whether they are heard, and whether they want to stop. One that wants to and is not
    /// heard has stopped, and says nothing about the network.
    pub(crate) fn of(nodes: impl Iterator<Item = (bool, bool)>) -> Self {
        nodes.fold(Self { heard: 0, all: 0 }, |Self { heard, all }, (is_heard, stops)| Self {
            heard: heard + usize::from(is_heard),
            all: all + usize::from(is_heard || !stops),
        })
    }
}

// === impl SilenceRule ===

impl SilenceRule {
    pub(crate) fn new(session: Duration, others: bool) -> Self {
        Self { session, others, term: 0, since: Duration::ZERO, insists: false, fenced: None, aside: None }
    }

    /// What to do in a term of this controller. To be called with every look, whether nodes are `silent` or not: one that
    /// hears most nodes once more, and fewer later, steps aside then.
    pub(crate) fn step(&mut self, now: Duration, term: Revision, nodes: InService, silent: bool) -> Verdict {
        if self.term != term {
            (self.term, self.since, self.insists) = (term, now, false);
        }
        let hears_most = 2 * nodes.heard > nodes.all;
        if hears_most {
            (self.insists, self.aside) = (false, None);
        }
        if !silent {
            return Verdict::Wait;
        }
        let instead = if hears_most { None } else { self.step_cut_off(now, nodes) };
        instead.unwrap_or_else(|| match self.fenced {
            Some(last) if now.saturating_sub(last) < SPACING => Verdict::Wait,
            _ => Verdict::FenceOne,
        })
    }

    /// A node was fenced for its silence.
    pub(crate) fn fenced(&mut self, now: Duration) {
        self.fenced = Some(now);
    }

    /// What to do instead of fencing while at most half of the nodes are heard.
    fn step_cut_off(&mut self, now: Duration, nodes: InService) -> Option<Verdict> {
        if !self.others {
            return None;
        }
        if !self.insists {
            match self.aside {
                // It takes a moment.
                Some((_, term)) if term == self.term => return Some(Verdict::Wait),
                Some((at, _)) if now.saturating_sub(at) < ASIDE_MIN.max(ASIDE_SESSIONS * self.session) => {
                    self.insists = true;
                }
                _ => {
                    self.aside = Some((now, self.term));
                    return Some(Verdict::StepAside);
                }
            }
        }
        // Nobody at all is heard: the network may just have come back, and connections with it.
        (nodes.heard == 0 && now.saturating_sub(self.since) < self.session).then_some(Verdict::Wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: Duration = Duration::from_secs(2);

    fn rule(others: bool) -> SilenceRule {
        SilenceRule::new(SESSION, others)
    }

    fn nodes(heard: usize, all: usize) -> InService {
        InService { heard, all }
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_node_that_has_stopped_in_good_order_is_no_sign_of_a_broken_network() {
        let mut rule = rule(true);
        let of = |nodes: &[(bool, bool)]| InService::of(nodes.iter().copied());
        assert_eq!(rule.step(millis(2_100), 7, of(&[(true, false), (false, true)]), true), Verdict::FenceOne);
        assert_eq!(rule.step(millis(2_100), 7, of(&[(true, true), (false, false)]), true), Verdict::StepAside);
    }

    #[test]
    fn one_silent_node_is_fenced_at_once_and_the_next_one_half_a_second_later() {
        let mut rule = rule(true);
        assert_eq!(rule.step(millis(2_100), 7, nodes(3, 5), true), Verdict::FenceOne);
        assert_eq!(rule.step(millis(2_200), 7, nodes(3, 5), true), Verdict::FenceOne, "that one was heard after all");
        rule.fenced(millis(2_200));
        assert_eq!(rule.step(millis(2_300), 7, nodes(3, 4), true), Verdict::Wait);
        assert_eq!(rule.step(millis(2_600), 7, nodes(3, 4), true), Verdict::Wait);
        assert_eq!(rule.step(millis(2_700), 7, nodes(3, 4), true), Verdict::FenceOne);
    }

    #[test]
    fn whoever_hears_at_most_half_steps_aside_and_fences_nobody() {
        for (heard, all) in [(0, 3), (1, 3), (1, 2), (0, 1)] {
            let mut rule = rule(true);
            assert_eq!(rule.step(millis(2_100), 7, nodes(heard, all), true), Verdict::StepAside, "{heard} of {all}");
            assert_eq!(
                rule.step(millis(2_200), 7, nodes(heard, all), true),
                Verdict::Wait,
                "until it does not lead any more"
            );
            // Another one has led for a minute.
            assert_eq!(rule.step(millis(62_000), 20, nodes(heard, all), true), Verdict::StepAside);
        }
    }

    #[test]
    fn where_nobody_hears_more_all_are_fenced_one_after_the_other() {
        let mut rule = rule(true);
        assert_eq!(rule.step(millis(2_100), 7, nodes(2, 42), true), Verdict::StepAside);
        // The others have stepped aside as well.
        let (mut now, mut silent) = (millis(4_000), 40);
        while silent > 0 {
            match rule.step(now, 11, nodes(2, 2 + silent), true) {
                Verdict::FenceOne => {
                    rule.fenced(now);
                    silent -= 1;
                }
                step => assert_eq!(step, Verdict::Wait, "it leads on, for however long that takes"),
            }
            now += millis(100);
        }
        assert!((millis(23_000)..millis(25_000)).contains(&now), "{now:?}");
    }

    #[test]
    fn who_leads_again_and_hears_nobody_waits_for_a_session_first() {
        let mut rule = rule(true);
        assert_eq!(rule.step(millis(2_100), 7, nodes(0, 3), true), Verdict::StepAside);
        assert_eq!(rule.step(millis(4_000), 9, nodes(0, 3), true), Verdict::Wait);
        assert_eq!(rule.step(millis(5_900), 9, nodes(0, 3), true), Verdict::Wait);
        assert_eq!(rule.step(millis(6_000), 9, nodes(0, 3), true), Verdict::FenceOne);
    }

    #[test]
    fn the_only_controller_fences_whoever_it_does_not_hear() {
        let mut rule = rule(false);
        assert_eq!(rule.step(millis(2_100), 7, nodes(0, 3), true), Verdict::FenceOne);
        rule.fenced(millis(2_100));
        assert_eq!(rule.step(millis(2_200), 7, nodes(0, 2), true), Verdict::Wait);
        assert_eq!(rule.step(millis(2_600), 7, nodes(0, 2), true), Verdict::FenceOne);
    }

    #[test]
    fn one_that_hears_most_again_steps_aside_when_it_is_cut_off_later() {
        let mut rule = rule(true);
        assert_eq!(rule.step(millis(2_100), 7, nodes(1, 2), true), Verdict::StepAside);
        assert_eq!(rule.step(millis(4_000), 9, nodes(1, 2), true), Verdict::FenceOne);
        rule.fenced(millis(4_000));
        assert_eq!(rule.step(millis(4_600), 9, nodes(1, 2), true), Verdict::FenceOne);
        rule.fenced(millis(4_600));
        assert_eq!(rule.step(millis(6_000), 9, nodes(3, 3), false), Verdict::Wait);
        assert_eq!(rule.step(millis(8_000), 9, nodes(0, 3), true), Verdict::StepAside, "in the same term");
    }
}
