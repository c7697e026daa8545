//! R12: which monitor may act. Binary Star says which one *tries*; the record `<state_root>/leader`, taken by
//! compare-and-set, says which one *may*.
//!
//! A monitor takes the lead if nobody holds it, if its own name holds it (its predecessor is gone: the name is
//! guarded by an ephemeral znode), or if the holder is neither heard by heartbeats nor advances its beat in
//! ZooKeeper. If only the link between the monitors is cut the beat goes on, and nothing happens but a warning.

use alloc::string::String;
use core::time::Duration;

use topology::LeaderRecord;

use crate::Time;

/// Beats that must fail to come before the holder counts as gone.
pub const MISSED_BEATS: u32 = 3;

/// What this monitor knows of the peer from the heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// No peer is configured.
    None,
    /// Nothing heard for two heartbeats.
    Expired,
    /// It is there and says that it is active.
    Active,
    /// It is there and does not say that.
    NotActive,
}

/// What this monitor is to do about the lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bid {
    /// Nothing.
    Wait,
    /// Write itself into the leader record; at this version, or create it.
    Take(Option<i32>),
    /// It leads; the version at which it took the lead.
    Leads(i32),
}

/// The beat of the holder.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Beat {
    /// Its znode has not been read yet.
    Unread,
    /// It has no znode.
    Gone,
    /// Its instance and counter, and when they were last seen to change.
    Heard(String, u64, Time),
}

/// The lead as one monitor sees it.
#[derive(Debug, Clone)]
pub struct Lead {
    me: LeaderRecord,
    heartbeat: Duration,
    session: bool,
    /// The leader znode was deleted. Its versions begin at 0 again, so an old check could pass: only a restart of
    /// the monitors may create it again.
    deleted: bool,
    record: Option<Option<(LeaderRecord, i32)>>,
    beat: Beat,
    peer: Peer,
    first: bool,
    tries: bool,
    leaving: bool,
    /// An attempt is under way, or failed: not before that moment.
    not_before: Time,
}

impl Lead {
    /// A monitor that starts to look now. `heartbeat` is the interval of heartbeats and beats.
    pub fn new(me: LeaderRecord, heartbeat: Duration, peer: Peer) -> Self {
        Self {
            me,
            heartbeat,
            session: false,
            deleted: false,
            record: None,
            beat: Beat::Unread,
            peer,
            first: false,
            tries: false,
            leaving: false,
            not_before: Time::ZERO,
        }
    }

    /// This is the side that leads when both are there and nobody ever led: the primary monitor.
    #[must_use]
    pub fn first(mut self, first: bool) -> Self {
        self.first = first;
        self
    }

    /// The session with ZooKeeper began or was lost. A lost one ends the reign (R11): the next one begins anew.
    pub fn session(&mut self, alive: bool) {
        if !alive {
            self.record = None;
            self.beat = Beat::Unread;
        }
        self.session = alive;
    }

    /// What Binary Star says: how the peer does, and whether this monitor is ACTIVE there.
    pub fn pair(&mut self, peer: Peer, active: bool) {
        self.peer = peer;
        self.tries = active;
    }

    /// The leader record was read; none if it does not exist.
    pub fn record(&mut self, record: Option<(LeaderRecord, i32)>) {
        self.deleted =
            self.deleted || (record.is_none() && self.record.as_ref().is_some_and(Option::is_some));
        let newer = match (&self.record, &record) {
            (Some(Some((_, known))), Some((_, version))) => version > known,
            (Some(Some(_)), None) => false,
            (Some(None) | None, _) => true,
        };
        if newer {
            let holder = |r: &Option<(LeaderRecord, i32)>| r.as_ref().map(|(leader, _)| leader.name.clone());
            if self.record.as_ref().map(holder) != Some(holder(&record)) {
                self.beat = Beat::Unread;
            }
            self.record = Some(record);
            self.not_before = Time::ZERO;
        }
    }

    /// The holder's znode was read: its instance and beat; none if it is gone.
    pub fn beat(&mut self, beat: Option<(String, u64)>, now: Time) {
        match (&self.beat, beat) {
            (_, None) => self.beat = Beat::Gone,
            (Beat::Heard(instance, value, _), Some((i, v))) if *instance == i && *value == v => {}
            (_, Some((i, v))) => self.beat = Beat::Heard(i, v, now),
        }
    }

    /// An attempt ended without success; the record is read again meanwhile.
    pub fn failed(&mut self, now: Time) {
        self.not_before = now + self.heartbeat;
    }

    /// An attempt was begun.
    pub fn trying(&mut self, now: Time) {
        self.not_before = now + 4 * self.heartbeat;
    }

    /// SIGTERM: never take the lead again.
    pub fn leave(&mut self) {
        self.leaving = true;
    }

    /// R13: this monitor stood still; the beats that it missed are its own fault.
    pub fn stalled(&mut self, now: Time) {
        if let Beat::Heard(_, _, at) = &mut self.beat {
            *at = now;
        }
    }

    /// The name of the holder whose znode is to be watched.
    pub fn holder(&self) -> Option<&str> {
        let (record, _) = self.record.as_ref()?.as_ref()?;
        (!record.name.is_empty() && record.name != self.me.name).then_some(record.name.as_str())
    }

    /// The version of the reign, while this very process leads.
    pub fn reign(&self) -> Option<i32> {
        let (record, version) = self.record.as_ref()?.as_ref()?;
        (self.session && !self.deleted && *record == self.me).then_some(*version)
    }

    /// Whether the leader znode was deleted under our eyes, which no monitor mends.
    pub fn deleted(&self) -> bool {
        self.deleted
    }

    /// Whether another monitor holds the lead.
    pub fn held_by_other(&self) -> bool {
        self.holder().is_some()
    }

    /// What is to be done now.
    pub fn bid(&self, now: Time) -> Bid {
        let Some(record) = self.record.as_ref().filter(|_| self.session) else { return Bid::Wait };
        if let Some(version) = self.reign() {
            return Bid::Leads(version);
        }
        if self.leaving || self.deleted || now < self.not_before {
            return Bid::Wait;
        }
        match record {
            None if self.may_begin() => Bid::Take(None),
            Some((holder, version)) if holder.name.is_empty() && self.may_begin() => {
                Bid::Take(Some(*version))
            }
            Some((holder, version)) if holder.name == self.me.name => Bid::Take(Some(*version)),
            Some((_, version)) if self.may_take_over(now) => Bid::Take(Some(*version)),
            None | Some(_) => Bid::Wait,
        }
    }

    /// When the bid may change although nothing happens.
    pub fn deadline(&self, now: Time) -> Option<Time> {
        let beat = match &self.beat {
            Beat::Heard(_, _, at) => Some(*at + MISSED_BEATS * self.heartbeat),
            Beat::Unread | Beat::Gone => None,
        };
        [beat, Some(self.not_before)].into_iter().flatten().filter(|at| *at > now).min()
    }

    /// Nobody holds the lead. One that was given up goes to whoever is left, at once; the very first one to whom
    /// Binary Star names, to the primary monitor if it names nobody (both waited for ZooKeeper), or to whoever is alone.
    fn may_begin(&self) -> bool {
        let given_up = matches!(self.record, Some(Some(_)));
        match self.peer {
            Peer::None | Peer::Expired => true,
            Peer::NotActive => given_up || self.tries || self.first,
            Peer::Active => given_up,
        }
    }

    /// Another one holds it: only when it is heard neither by heartbeats nor by beats. A peer that says itself that
    /// it is not active (it lost its session, or both are passive) does not hold the lead back.
    fn may_take_over(&self, now: Time) -> bool {
        let beats = match &self.beat {
            Beat::Unread => true,
            Beat::Gone => false,
            Beat::Heard(_, _, at) => now < *at + MISSED_BEATS * self.heartbeat,
        };
        !beats && self.peer != Peer::Active
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Time {
        Duration::from_millis(n)
    }

    fn record(name: &str, instance: &str) -> LeaderRecord {
        LeaderRecord { name: name.into(), instance: instance.into() }
    }

    fn lead(peer: Peer) -> Lead {
        let mut lead = Lead::new(record("backup", "b1"), ms(250), peer);
        lead.session(true);
        lead
    }

    #[test]
    fn a_passive_monitor_takes_over_only_when_heartbeats_and_beats_stop() {
        let mut l = lead(Peer::Active);
        l.record(Some((record("primary", "p1"), 4)));
        l.beat(Some(("p1".into(), 10)), ms(1000));
        assert_eq!(l.bid(ms(1100)), Bid::Wait);
        l.pair(Peer::Expired, false);
        assert_eq!(l.bid(ms(1749)), Bid::Wait, "the link is cut, the beat was heard");
        l.beat(Some(("p1".into(), 11)), ms(1740));
        assert_eq!(l.bid(ms(2489)), Bid::Wait);
        assert_eq!(l.deadline(ms(2000)), Some(ms(2490)));
        assert_eq!(l.bid(ms(2490)), Bid::Take(Some(4)));
        l.pair(Peer::Active, false);
        assert_eq!(l.bid(ms(9999)), Bid::Wait, "its heartbeats are back");
        l.pair(Peer::Expired, false);
        l.beat(None, ms(9999));
        assert_eq!(l.bid(ms(9999)), Bid::Take(Some(4)), "its znode is gone");
    }

    #[test]
    fn a_repeated_beat_is_no_beat() {
        let mut l = lead(Peer::Expired);
        l.record(Some((record("primary", "p1"), 4)));
        l.beat(Some(("p1".into(), 10)), ms(0));
        l.beat(Some(("p1".into(), 10)), ms(700));
        assert_eq!(l.bid(ms(750)), Bid::Take(Some(4)));
        l.stalled(ms(750));
        assert_eq!(l.bid(ms(751)), Bid::Wait, "this monitor itself stood still");
    }

    #[test]
    fn the_first_lead_goes_to_whom_binary_star_names_or_who_is_alone() {
        for (peer, tries, bid) in [
            (Peer::None, false, Bid::Take(None)),
            (Peer::Expired, false, Bid::Take(None)),
            (Peer::NotActive, false, Bid::Wait),
            (Peer::NotActive, true, Bid::Take(None)),
            (Peer::Active, false, Bid::Wait),
        ] {
            let mut l = lead(peer);
            l.pair(peer, tries);
            assert_eq!(l.bid(ms(1)), Bid::Wait, "nothing read yet");
            l.record(None);
            assert_eq!(l.bid(ms(1)), bid, "{peer:?} {tries}");
        }
        let mut both_passive = lead(Peer::NotActive).first(true);
        both_passive.record(None);
        assert_eq!(both_passive.bid(ms(1)), Bid::Take(None), "the primary monitor begins");
    }

    #[test]
    fn a_lead_that_was_given_up_is_taken_at_once_but_not_by_the_giver() {
        let mut l = lead(Peer::Active);
        l.record(Some((record("", ""), 9)));
        assert_eq!(l.bid(ms(1)), Bid::Take(Some(9)), "its last heartbeats may still say ACTIVE");
        l.leave();
        assert_eq!(l.bid(ms(1)), Bid::Wait);
    }

    #[test]
    fn a_restarted_leader_takes_its_own_lead_back_under_a_new_version() {
        let mut l = lead(Peer::NotActive);
        l.record(Some((record("backup", "b0"), 5)));
        assert_eq!((l.bid(ms(1)), l.reign()), (Bid::Take(Some(5)), None));
        l.trying(ms(1));
        assert_eq!(l.bid(ms(2)), Bid::Wait);
        l.record(Some((record("backup", "b1"), 6)));
        assert_eq!((l.bid(ms(3)), l.reign()), (Bid::Leads(6), Some(6)));
        l.record(Some((record("backup", "b0"), 5)));
        assert_eq!(l.reign(), Some(6), "an older answer that comes late changes nothing");
        l.record(Some((record("primary", "p1"), 7)));
        assert_eq!((l.reign(), l.held_by_other()), (None, true), "another name: step down at once");
    }

    #[test]
    fn a_lost_session_ends_the_reign() {
        let mut l = lead(Peer::NotActive);
        l.record(Some((record("backup", "b1"), 6)));
        assert_eq!(l.reign(), Some(6));
        l.session(false);
        assert_eq!((l.reign(), l.bid(ms(1))), (None, Bid::Wait));
        l.session(true);
        assert_eq!(l.bid(ms(1)), Bid::Wait, "it must be read again");
    }
}
