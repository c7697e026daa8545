//! R14, the cold start: everything dies and comes back in any order, and what must hold of the one that is chosen then.
//!
//! What the rule promises, and what is judged by the truth:
//!
//! * When a cold start is decided, every process that the record names (the primary, the set) has ended, and another
//!   one has begun in its place: nobody who may hold everything lives unseen.
//! * Every member was there then, none of them loading, and had been for `cold_wait`.
//! * The chosen one has the highest (fence, tick) of all members, nobody's tick contradicts that, and its fence is no
//!   older than the set: [`verdict`], written again from the text of the rule. Or all are empty.
//! * No member follows another one then, so that an empty one empties nobody; nor does anybody whose file does not make
//!   it follow another, or who was detached, lose anything before; nor does the chosen one after.
//!
//! * Where nobody has lost anything since the last copy died, nor was anything erased, nothing confirmed is lost.
//!
//! From then on everything is promised again: what the chosen one holds is kept, and what is acknowledged later.

use failover::ColdStart;
use topology::{Endpoint, State};

use super::flaw::Flaw;
use super::kernel::{Event, MS, Sim, Us, say};
use super::oracle::Segment;
use super::redis::{Data, Keeps, Server, index};

/// An answer on which a monitor acts is no older: silence for `down_after` and what it takes to be noticed, on slow and
/// lossy links.
const HEARD_WITHIN: Us = 2000 * MS;

/// What a server was told last, as a moment in the life of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rank {
    run: u32,
    fence: Option<u64>,
    tick: Option<u64>,
    empty: bool,
}

impl Rank {
    pub(super) fn of(server: &Server) -> Self {
        let Data { fence, tick, .. } = server.data;
        Self { run: server.run, fence, tick, empty: server.data.is_empty() }
    }
}

/// Whom R14 (2) and (3) choose among all members, or why an operator has to.
pub(super) fn verdict(record: &State, members: &[(Endpoint, Rank)]) -> Result<Endpoint, &'static str> {
    let recorded = &record.primary.addr;
    if members.iter().all(|(_, rank)| rank.empty) {
        return Ok(recorded.clone());
    }
    let mut sorted: Vec<&(Endpoint, Rank)> = members.iter().collect();
    sorted.sort_by(|(one, a), (other, b)| {
        let told = (b.fence, b.tick).cmp(&(a.fence, a.tick));
        told.then((one != recorded).cmp(&(other != recorded))).then(one.cmp(other))
    });
    let Some((best, Rank { fence: Some(fence), tick: Some(tick), .. })) = sorted.first() else {
        return Err("the best has no fence or no tick");
    };
    if sorted.iter().any(|(_, rank)| rank.tick > Some(*tick)) {
        return Err("another one has a higher tick");
    }
    let entered = record.in_sync.iter().map(|entry| entry.since).min();
    // Nothing was acknowledged yet under a promotion that leaves too few in sync.
    let nothing =
        record.phase == topology::Phase::Promoting && record.in_sync.len() < record.min_in_sync as usize;
    let floor = record.floor.filter(|_| nothing).or(entered).unwrap_or(record.epoch);
    match *fence < floor {
        true => Err("the best is older than the set"),
        false => Ok(best.clone()),
    }
}

impl Sim {
    // -- everything dies -----------------------------------------------------------------------------------------

    pub(super) fn blackout(&mut self) {
        let Some(dark) = self.plan.dark.filter(|_| self.healed.is_none()) else { return };
        let again = self.rng.u64(dark.every / 2..2 * dark.every);
        self.schedule(again, Event::Blackout);
        let (how, primary) = (self.rng.u8(0..8), self.store.state().map(|state| index(&state.primary.addr)));
        say!(self, "everything dies");
        let spread = [1, 1, 1, 30, 400][self.rng.usize(0..5)] * MS;
        for server in 0..self.servers.len() {
            if self.servers[server].up && self.one_in(4) {
                self.servers[server].save();
            }
            let any = [Keeps::Nothing, Keeps::Snapshot, Keeps::All][self.rng.usize(0..3)];
            let keeps = match how {
                0 | 1 => any,
                2 => Keeps::Snapshot,
                3 => Keeps::Nothing,
                4 if primary == Some(server) => Keeps::Nothing,
                4..6 if primary != Some(server) && self.rng.bool() => any,
                _ => Keeps::All,
            };
            let after = if self.rng.bool() { self.rng.u64(3..60) } else { self.rng.u64(60..1500) } * MS;
            let dies = self.rng.u64(0..spread);
            self.schedule(dies, Event::Dies { server, keeps, after });
        }
    }

    // -- what is remembered --------------------------------------------------------------------------------------

    fn is_able(&self, at: usize) -> bool {
        let s = &self.servers[at];
        s.up && !s.paused && self.now >= s.loading_until
    }

    /// It stops answering questions, if it did.
    pub(super) fn note_able(&mut self, at: usize) {
        if self.is_able(at) {
            self.servers[at].able_until = self.now;
        }
    }

    pub(super) fn note_ranks(&mut self) {
        if self.plan.dark.is_none() {
            return;
        }
        let now = self.now;
        self.oracle.ranks.resize(self.servers.len(), Vec::new());
        for (noted, server) in self.oracle.ranks.iter_mut().zip(&self.servers).filter(|(_, s)| s.up) {
            let rank = Rank::of(server);
            if noted.last().is_none_or(|(_, last)| *last != rank) {
                noted.push((now, rank));
            }
        }
    }

    // -- the decision --------------------------------------------------------------------------------------------

    /// A monitor is about to publish that record.
    pub(super) fn judge_decision(&mut self, at: usize, next: &State) {
        let Some(old) = self.monitors[at].group.view().state().cloned() else { return };
        if next.epoch <= old.epoch {
            return;
        }
        let why = match (next.promoted == next.epoch, next.cold) {
            (false, _) => self.change_error(at, &old),
            (true, true) => self.cold_error(at, &old, next),
            (true, false) => None,
        };
        let why = why
            .or_else(|| (next.promoted == next.epoch).then(|| self.begun_while_paused(at, &old)).flatten());
        if let Some(why) = why {
            self.broken(format!("m{at} decides on epoch {}: {why}", next.epoch));
        }
    }

    /// R6: the set is changed on the word of the primary, and of the process that answers at its address now.
    fn change_error(&self, at: usize, old: &State) -> Option<String> {
        let heard =
            self.monitors[at].probes.get(index(&old.primary.addr)).is_some_and(|probe| probe.heard_on_link);
        (!heard).then(|| {
            "the set is changed on the word of a primary that was heard on an earlier connection only".into()
        })
    }

    fn cold_error(&mut self, at: usize, old: &State, next: &State) -> Option<String> {
        if self.plan.limits.cold_start == ColdStart::Operator {
            return Some("a cold start that an operator was to decide".into());
        }
        let wrong = self.may_live(old).or_else(|| self.follower(at, old));
        let wrong =
            wrong.or_else(|| if self.monitors[at].resumed_at == self.now { None } else { self.missing(old) });
        wrong.or_else(|| self.choice_error(at, old, next))
    }

    /// A process of the record in whose place no other one was seen.
    pub(super) fn may_live(&self, old: &State) -> Option<String> {
        let named = old.in_sync.iter().map(|entry| (&entry.addr, &entry.run_id));
        let mut named = named.chain([(&old.primary.addr, &old.primary.run_id)]);
        let (_, run_id) = named.find(|(addr, run_id)| self.servers[index(addr)].run_id == **run_id)?;
        Some(format!("a cold start while {run_id} may live"))
    }

    /// A member that followed somebody when it was asked and follows it still.
    fn follower(&self, at: usize, old: &State) -> Option<String> {
        let follows = |addr: &&Endpoint| {
            let s = &self.servers[index(addr)];
            s.up && !s.master
                && s.source.is_some()
                && self.asked(at, addr).is_some_and(|asked| s.followed_at <= asked)
        };
        let one = old.members.iter().find(follows)?;
        Some(format!("a cold start while {one} follows another one"))
    }

    /// A member that has not been there long enough.
    fn missing(&self, old: &State) -> Option<String> {
        let cold_wait = super::monitor::period(self.plan.limits.cold_wait);
        old.members.iter().find_map(|addr| {
            let at = index(addr);
            let s = &self.servers[at];
            let ago = |moment: Us| self.now.saturating_sub(moment);
            if !self.is_able(at) && ago(s.able_until) > HEARD_WITHIN {
                return Some(format!("a cold start without {addr}"));
            }
            let fresh = ago(s.risen_at) < cold_wait && ago(s.able_before) > HEARD_WITHIN;
            fresh.then(|| format!("a cold start without waiting for {addr}"))
        })
    }

    /// When the answer was asked for on which that monitor acts.
    fn asked(&self, at: usize, addr: &Endpoint) -> Option<Us> {
        let monitor = &self.monitors[at];
        let seen = monitor.group.view().backends.get(addr)?.seen.as_ref()?;
        Some(monitor.moment(seen.asked))
    }

    /// Judged where nothing has changed since the oldest answer: then all answers are the truth.
    fn choice_error(&mut self, at: usize, old: &State, next: &State) -> Option<String> {
        if self.breaks(Flaw::ColdFromAnyone) {
            return None; // what comes of it is judged
        }
        let mut members = Vec::new();
        for addr in &old.members {
            let (since, rank) = *self.oracle.ranks.get(index(addr))?.last()?;
            let still = self.is_able(index(addr)) && self.asked(at, addr).is_some_and(|asked| asked >= since);
            if !still {
                return None;
            }
            members.push((addr.clone(), rank));
        }
        self.counts.chosen += 1;
        match verdict(old, &members) {
            Ok(best) if best == next.primary.addr => None,
            Ok(best) => {
                Some(format!("a cold start from {}, and {best} would be the best", next.primary.addr))
            }
            Err(why) => Some(format!("a cold start from {}, although {why}", next.primary.addr)),
        }
    }

    // -- the publication -----------------------------------------------------------------------------------------

    /// A cold start stands: what is promised begins anew, with what the chosen one holds.
    pub(super) fn cold_start(&mut self, new: &State) {
        self.judge_history();
        self.judge_whole(new);
        say!(self, "a cold start: all is promised anew from what {} holds", new.primary.addr);
        let server = &self.servers[index(&new.primary.addr)];
        let oracle = &mut self.oracle;
        oracle.acknowledged = oracle.acknowledged.and(&server.data.has);
        oracle.refused = Default::default();
        oracle.void = false;
        oracle.segment = Segment {
            epoch: new.epoch,
            begun: self.now,
            requests: oracle.history.requests.len(),
            values: server.data.values,
            has: server.data.has.clone(),
        };
        self.counts.cold += 1;
    }

    /// All have come back with everything: then the best one has everything.
    fn judge_whole(&mut self, new: &State) {
        let mut then = self.oracle.at_death.iter().zip(&self.servers);
        let whole = then.all(|(then, server)| then.first_not_in(&server.data.has).is_none());
        if !whole || !self.oracle.void || !self.oracle.history.flushes.is_empty() {
            return;
        }
        self.counts.whole += 1;
        let chosen = &self.servers[index(&new.primary.addr)];
        if let Some(lost) = self.oracle.acknowledged.first_not_in(&chosen.data.has) {
            let why = format!(
                "the confirmed write {lost} is lost by a cold start from {}, and all were whole",
                chosen.run_id
            );
            self.broken(why);
        }
    }

    /// Somebody is about to lose data to a full synchronisation. None that a monitor could have saved may, before a cold
    /// start; nor may the chosen one.
    pub(super) fn judge_emptying(&mut self, at: usize, new: &Data, record: &State) {
        let s = &self.servers[at];
        let ours = !s.data.is_empty() && record.members.contains(&s.addr);
        let Some(dark) = self.plan.dark.filter(|_| ours) else { return };
        // The processes of the beginning follow the first server, as by their files.
        let by_its_file = (dark.files || s.run == 0) && s.auth.is_none() && !s.detached;
        // Not so when it gets what the chosen one holds, late.
        let loses = (new.fence, new.tick) < (s.data.fence, s.data.tick);
        let why = if record.cold && s.run_id == record.primary.run_id {
            "was emptied although it was chosen"
        } else if self.oracle.void && loses && !by_its_file {
            "was emptied before a cold start"
        } else {
            self.counts.emptied += u64::from(self.oracle.void && loses);
            return;
        };
        let why = format!("{} {why}", s.run_id);
        self.broken(why);
    }
}
