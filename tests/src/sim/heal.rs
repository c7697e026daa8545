//! How a run has to end: within a bound after the last fault all live servers are in their recorded roles, and the
//! announcement and the pair agree, unless nobody is left who may be promoted.

use failover::{ColdStart, Disqualified, Reason, candidate};
use topology::{Endpoint, Phase, State};

use super::End;
use super::cold::{Rank, verdict};
use super::kernel::{Event, MS, Sim, Us, say};
use super::monitor::period;
use super::redis::{Server, index};
use super::store::{Content, Path};

/// From the end of all faults. Sessions end after 2 s and half-open replication links after 3 s; both one after the
/// other, and a failover that rests for `min_interval`.
const BOUND: Us = 7000 * MS;

impl Sim {
    pub(super) fn look_whether_healed(&mut self) {
        let Some(since) = self.healed else { return };
        match self.unhealed() {
            None => {
                self.counts.healing_ms = (self.now - since) / MS;
                self.end = Some(End::Converged);
            }
            Some(_) if self.is_asked() || self.now < self.bound(since) => self.schedule(20 * MS, Event::Look),
            Some(why) => match self.excuse() {
                Some(end) => {
                    self.explain_end();
                    self.end = Some(end);
                }
                None => self.broken(format!("not converged {} ms after the last fault: {why}", BOUND / MS)),
            },
        }
    }

    /// What is asked for may stand in the way until it is answered.
    fn bound(&self, since: Us) -> Us {
        since.max(self.desk.answered_at) + BOUND + period(self.plan.limits.cold_wait)
    }

    /// What is not as it has to be.
    fn unhealed(&self) -> Option<String> {
        let Some(state) = self.store.state() else { return Some("there is no record".into()) };
        if self.healed.is_none_or(|since| self.now < since + 320 * MS) {
            return Some("servers are still starting".into());
        }
        if state.phase != Phase::Serving {
            return Some("the promotion is not finished".into());
        }
        self.primary_wrong(&state)
            .or_else(|| self.replica_wrong(&state))
            .or_else(|| self.announcement_wrong(&state))
            .or_else(|| self.pair_wrong())
    }

    fn primary_wrong(&self, state: &State) -> Option<String> {
        let at = index(&state.primary.addr);
        let s = &self.servers[at];
        let role = s.up && s.master && s.run_id == state.primary.run_id;
        if !role {
            return Some(format!("{} is not the live primary {}", s.run_id, state.primary.run_id));
        }
        if s.data.tick.is_none() {
            return Some(format!("{} has no tick", s.run_id));
        }
        if s.data.fence != Some(state.epoch) {
            return Some(format!("{} has the fence {:?}", s.run_id, s.data.fence));
        }
        let writes = state.in_sync.len() >= state.min_in_sync as usize;
        (writes && self.oracle.served < state.epoch).then(|| "no write was confirmed in this epoch".into())
    }

    fn replica_wrong(&self, state: &State) -> Option<String> {
        let primary = index(&state.primary.addr);
        let member = |s: &Server| state.members.contains(&s.addr);
        let live = self.servers.iter().filter(|s| s.up && member(s)).count() - 1;
        for (at, s) in self.servers.iter().enumerate().filter(|(at, _)| *at != primary) {
            if !member(s) {
                if let Some(why) = self.stranger_wrong(at) {
                    return Some(why);
                }
                continue;
            }
            let entry = state.in_sync(&s.addr);
            if !s.up {
                if entry.is_some() && live >= state.min_in_sync as usize {
                    return Some(format!("the dead {} is in sync", s.run_id));
                }
                continue;
            }
            let follows = !s.master && s.source == Some(primary) && s.link_up;
            let entered = entry.is_some_and(|e| e.run_id == s.run_id && s.data.fence >= Some(e.since));
            if !follows || !entered {
                return Some(format!("s{at} follows: {follows}, in sync: {entered}"));
            }
            if !s.read_only {
                return Some(format!("s{at} takes writes"));
            }
        }
        None
    }

    fn announcement_wrong(&self, state: &State) -> Option<String> {
        match self.store.read(Path::Announcement) {
            Some((Content::Announcement(found), _)) if *found == state.topology() => None,
            found => Some(format!("the path holds {found:?}")),
        }
    }

    fn pair_wrong(&self) -> Option<String> {
        let leads: Vec<usize> = (0..2).filter(|at| self.leads(*at)).collect();
        let [leader] = leads.as_slice() else { return Some(format!("{leads:?} lead")) };
        let (one, other) = (&self.monitors[*leader], &self.monitors[1 - leader]);
        if one.pair.state != binary_star::State::Active {
            return Some(format!("m{leader} leads and is {}", one.pair.state));
        }
        let passive = !other.up || other.pair.state == binary_star::State::Passive;
        (!passive).then(|| format!("m{} does not lead and is {}", 1 - leader, other.pair.state))
    }

    /// Why nobody may be promoted, for the trace.
    fn explain_end(&mut self) {
        let Some(state) = self.store.state() else { return };
        let primary = self.servers[index(&state.primary.addr)].run_id.clone();
        let why: Vec<String> = state
            .in_sync
            .iter()
            .map(|entry| {
                let at = index(&entry.addr);
                let why = candidate::refusal(&state, entry, &self.observe(at));
                let all = self.oracle.acknowledged.first_not_in(&self.servers[at].data.has).is_none();
                format!("{} up {} {why:?} holds all {all}", entry.run_id, self.servers[at].up)
            })
            .collect();
        say!(self, "nobody left: primary {} is {primary}; {why:?}", state.primary.run_id);
    }

    fn leads(&self, at: usize) -> bool {
        self.monitors[at].up && self.monitors[at].reign.is_some()
    }

    /// Whether it is right that nobody serves: the recorded primary is gone, and R4 refuses every member of the set;
    /// or the record was destroyed while no monitor lived that had read it.
    fn excuse(&self) -> Option<End> {
        let destroyed = |m: &super::monitor::Monitor| *m.group.because() == Reason::RecordDamaged;
        if self.monitors.iter().any(|m| m.up && m.reign.is_some() && destroyed(m)) {
            return Some(End::NobodyLeft);
        }
        let Some(state) = self.store.state() else {
            return (!self.servers[0].up).then_some(End::NobodyLeft);
        };
        // R0: its data were never the group's, as far as anybody could record.
        let foreign = |s: &Server| {
            let ours = state.adopted.contains(&s.addr) || !state.members.contains(&s.addr);
            s.up && s.master && !s.data.has.is_empty() && !ours
        };
        if self.servers.iter().any(foreign) {
            return Some(End::Waits);
        }
        let primary = &self.servers[index(&state.primary.addr)];
        // Its fence was erased between the decision and its promotion: then R4 refuses it.
        let erased = state.phase == Phase::Promoting && !primary.master && primary.data.fence.is_none();
        let erased = erased && !state.cold;
        if primary.up && primary.run_id == state.primary.run_id && !erased {
            return None;
        }
        let refused = state.in_sync.iter().all(|entry| {
            let at = index(&entry.addr);
            let why = candidate::refusal(&state, entry, &self.observe(at));
            // R4 refuses a history that it does not know; of a server that holds everything it has to know it.
            let whole = self.oracle.acknowledged.first_not_in(&self.servers[at].data.has).is_none();
            !self.servers[at].up || why.is_some_and(|why| why != Disqualified::OtherHistory || !whole)
        });
        if refused { self.cold_excuse(&state) } else { None }
    }

    /// Whether a cold start may not be, or has to wait: for a server, or for an operator.
    fn cold_excuse(&self, state: &State) -> Option<End> {
        let server = |addr: &Endpoint| &self.servers[index(addr)];
        let runs = |addr: &Endpoint, run_id: &str| server(addr).up && server(addr).run_id == run_id;
        let known = runs(&state.primary.addr, &state.primary.run_id)
            || state.in_sync.iter().any(|entry| runs(&entry.addr, &entry.run_id));
        if known || self.plan.limits.cold_start == ColdStart::Operator {
            return Some(End::NobodyLeft);
        }
        let members: Vec<(Endpoint, Rank)> =
            state.members.iter().map(|addr| (addr.clone(), Rank::of(server(addr)))).collect();
        let waits = state.members.iter().any(|addr| !server(addr).up) || verdict(state, &members).is_err();
        waits.then_some(End::Waits)
    }
}
