//! What must hold after every event, judged by the truth that no monitor sees.

use std::collections::BTreeMap;

use topology::{Endpoint, Phase, State};

use super::cold::Rank;
use super::history::History;
use super::kernel::{Event, Sim, Us, say};
use super::redis::{Bits, Data};

/// What is remembered to judge by.
pub(super) struct Oracle {
    /// Confirmed writes.
    pub(super) acknowledged: Bits,
    /// Writes that were told to have failed.
    pub(super) refused: Bits,
    pub(super) history: History,
    /// The highest epoch under which an answer was given, and by which server.
    pub(super) top: (u64, usize),
    /// The highest epoch under which anything was answered, sync or not.
    pub(super) served: u64,
    /// What each epoch said, and under which reign it began.
    epochs: BTreeMap<u64, Said>,
    /// No copy survived: the primary and every replica in sync, as processes, have ended. From then on nothing is
    /// promised, until a cold start (R14).
    pub(super) void: bool,
    /// What every server held at that moment, in memory or on disk.
    pub(super) at_death: Vec<Bits>,
    /// Since the last cold start, or since the beginning.
    pub(super) segment: Segment,
    /// What every server was told last, and when that changed.
    pub(super) ranks: Vec<Vec<(Us, Rank)>>,
    /// Something changed that [`Sim::check`] looks at.
    pub(super) dirty: bool,
}

/// A time within which everything is promised.
#[derive(Debug, Clone, Default)]
pub(super) struct Segment {
    /// Its first epoch, and when it was published.
    pub(super) epoch: u64,
    pub(super) begun: Us,
    /// So many requests were made before: they may have left something in the copy from which it begins.
    pub(super) requests: usize,
    /// What the keys held, and which writes had been carried out.
    pub(super) values: [Option<u32>; 4],
    pub(super) has: Bits,
}

/// What is a function of the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    primary: (Endpoint, String),
    in_sync: Vec<Endpoint>,
    min_in_sync: u32,
}

impl Said {
    fn of(state: &State) -> Self {
        let mut in_sync: Vec<Endpoint> = state.in_sync.iter().map(|entry| entry.addr.clone()).collect();
        in_sync.sort();
        Self {
            primary: (state.primary.addr.clone(), state.primary.run_id.clone()),
            in_sync,
            min_in_sync: state.min_in_sync,
        }
    }
}

impl Oracle {
    pub(super) fn new() -> Self {
        Self {
            acknowledged: Bits::default(),
            refused: Bits::default(),
            history: History::default(),
            top: (0, 0),
            served: 0,
            epochs: BTreeMap::new(),
            void: false,
            at_death: Vec::new(),
            segment: Segment::default(),
            ranks: Vec::new(),
            dirty: false,
        }
    }
}

impl Sim {
    /// No confirmed write is missing at the serving primary, and every replica that takes writes is no replica.
    pub(super) fn check(&mut self) {
        if !std::mem::take(&mut self.oracle.dirty) {
            return;
        }
        self.note_ranks();
        let Some(state) = self.store.state() else { return };
        self.note_void(&state);
        if self.oracle.void {
            return;
        }
        let at = super::redis::index(&state.primary.addr);
        let server = &self.servers[at];
        let serves = server.up
            && server.master
            && server.run_id == state.primary.run_id
            && server.data.fence == Some(state.epoch);
        if !serves {
            return;
        }
        let lost = self.oracle.acknowledged.first_not_in(&server.data.has);
        let refused = self.oracle.refused.first_in(&server.data.has);
        let (epoch, run_id) = (state.epoch, server.run_id.clone());
        let twice = server.data.twice.filter(|write| *write as usize >= self.oracle.segment.requests);
        let why = match (lost, twice, refused) {
            (Some(lost), ..) => format!("write {lost} was confirmed and is missing at"),
            (None, Some(twice), _) => format!("write {twice} was carried out twice at"),
            (None, None, Some(refused)) => format!("write {refused} was told to have failed and stands at"),
            (None, None, None) => return,
        };
        self.broken(format!("{why} {run_id}, primary of epoch {epoch}"));
    }

    fn note_void(&mut self, state: &State) {
        let holds = |run_id: &str, since: u64| {
            self.servers.iter().any(|s| s.up && s.run_id == run_id && s.data.highest >= since)
        };
        let survives = holds(&state.primary.run_id, 0)
            || state.in_sync.iter().any(|entry| holds(&entry.run_id, entry.since));
        if !self.oracle.void && !survives {
            say!(self, "no copy survived");
            self.oracle.void = true;
            self.oracle.at_death = self.servers.iter().map(|s| s.data.has.clone()).collect();
        }
    }

    /// An answer under this record stands for at least so many copies.
    pub(super) fn judge_copies(&mut self, view: &State) {
        if self.plan.sync && view.in_sync.len() < view.min_in_sync as usize {
            let (epoch, copies) = (view.epoch, view.in_sync.len() + 1);
            self.broken(format!("too few copies: {copies} in epoch {epoch}"));
        }
    }

    /// A member of the set must not lose confirmed writes to a full synchronisation, as from a restarted, empty primary
    /// (R7 b).
    pub(super) fn judge_snapshot(&mut self, at: usize, new: &Data) {
        let Some(state) = self.store.state() else { return };
        self.judge_emptying(at, new, &state);
        let s = &self.servers[at];
        let recorded = state.in_sync.iter().any(|entry| entry.run_id == s.run_id);
        let had = self.oracle.acknowledged.and(&s.data.has);
        if recorded && let Some(lost) = had.first_not_in(&new.has) {
            let why = format!("a full synchronisation took the confirmed write {lost} from {}", s.run_id);
            self.broken(why);
        }
    }

    /// R6: nobody is evicted who may still be the last to be promoted, unless his process is gone.
    fn eviction_error(&self, old: &State, new: &State) -> Option<String> {
        if new.promoted == new.epoch || new.in_sync.len() >= new.min_in_sync as usize {
            return None;
        }
        let lives = |run_id: &str| self.servers.iter().any(|s| s.run_id == run_id);
        let mut out = old.in_sync.iter().filter(|entry| new.in_sync(&entry.addr).is_none());
        let out = out.find(|entry| lives(&entry.run_id))?;
        Some(format!("epoch {} evicts {}, one of the last", new.epoch, out.run_id))
    }

    /// What an epoch said of its primary.
    pub(super) fn was_published(&self, record: &State) -> bool {
        self.oracle.epochs.get(&record.epoch).is_some_and(|said| *said == Said::of(record))
    }

    /// A record is about to be published: by the holder of the lead, and true to its epoch?
    pub(super) fn judge_publication(&mut self, monitor: usize, new: &State, by_holder: bool) {
        let old = self.store.state();
        if !by_holder {
            return self.broken(format!("monitor {monitor} published epoch {} without the lead", new.epoch));
        }
        let said = Said::of(new);
        let last = self.oracle.epochs.keys().next_back().copied().unwrap_or(0);
        match self.oracle.epochs.get(&new.epoch) {
            Some(before) if *before != said => {
                let why = format!("epoch {} was {before:?} and is now {said:?}", new.epoch);
                return self.broken(why);
            }
            Some(_) if new.epoch < last => {
                return self.broken(format!("epoch {} was published after {last}", new.epoch));
            }
            Some(_) => {}
            None if new.epoch != last + 1 => {
                return self.broken(format!("epoch {} follows {last}", new.epoch));
            }
            None => {
                let wrong = |old: &State| match new.cold {
                    true => cold_step_error(new).or_else(|| self.may_live(old)),
                    false => step_error(old, new).or_else(|| self.eviction_error(old, new)),
                };
                if let Some(why) = old.as_deref().and_then(wrong) {
                    return self.broken(why);
                }
                self.oracle.epochs.insert(new.epoch, said);
                if new.cold {
                    self.cold_start(new);
                }
            }
        }
        if let Some(why) = self.judge_members(old.as_deref(), new) {
            return self.broken(why);
        }
        self.counts.publications += 1;
        let enters = new.in_sync.iter().any(|entry| entry.since == new.epoch);
        self.ambush_publication(new.promoted == new.epoch && new.phase == Phase::Promoting, enters);
        if self.plan.strike > 0 && self.now > self.plan.calm && self.one_in(self.plan.strike) {
            let after = self.rng.u64(0..4000);
            self.schedule(after, Event::Strike);
        }
        self.oracle.dirty = true;
        say!(
            self,
            "m{monitor} published epoch {} {:?}: {} in sync {:?}: {}",
            new.epoch,
            new.phase,
            new.primary.run_id,
            new.in_sync.iter().map(|e| format!("{} since {}", e.run_id, e.since)).collect::<Vec<_>>(),
            new.reason
        );
    }
}

/// A cold start begins with nobody in sync; the epoch after it is none any more.
fn cold_step_error(new: &State) -> Option<String> {
    let begins = new.promoted == new.epoch && new.phase == Phase::Promoting && new.in_sync.is_empty();
    (!begins).then(|| format!("epoch {} is no cold start", new.epoch))
}

/// What a new epoch may change: a promotion takes one of the set; an entry keeps its process and its `since`; who
/// enters does so with this epoch, or was the primary of a switchover.
fn step_error(old: &State, new: &State) -> Option<String> {
    let promotes = new.promoted == new.epoch;
    if promotes {
        let chosen = old.in_sync(&new.primary.addr);
        if chosen.is_none_or(|entry| entry.run_id != new.primary.run_id) {
            return Some(format!(
                "epoch {} promotes {}, which is not in the set",
                new.epoch, new.primary.run_id
            ));
        }
    } else if old.primary.run_id != new.primary.run_id || old.promoted != new.promoted {
        return Some(format!("epoch {} changes the primary without a promotion", new.epoch));
    }
    if old.in_sync == new.in_sync && !promotes && old.min_in_sync == new.min_in_sync {
        return Some(format!("epoch {} changes nothing", new.epoch));
    }
    for entry in &new.in_sync {
        let kept =
            old.in_sync(&entry.addr).is_some_and(|e| e.run_id == entry.run_id && e.since == entry.since);
        let entered = !promotes && old.in_sync(&entry.addr).is_none() && entry.since == new.epoch;
        // R15: whoever is left, or is given back from, stays under what it was stamped with.
        let left = promotes
            && entry.run_id == old.primary.run_id
            && match (&new.from, &old.from) {
                (Some(from), _) => from.run_id == entry.run_id && entry.since == old.epoch,
                (None, Some(_)) => entry.since < old.epoch,
                (None, None) => false,
            };
        if !kept && !entered && !left {
            return Some(format!(
                "epoch {}: the entry of {} is neither kept nor new",
                new.epoch, entry.run_id
            ));
        }
    }
    None
}
