//! Rules that the simulated programs break on purpose, one at a time: what does not notice that proves nothing.
//!
//! The core itself cannot be told to break a rule; whoever stands around it is: what it is shown, what becomes of its
//! publications and orders. The API's rules are broken in its own steps.

use std::rc::Rc;

use failover::cold::Wait;
use failover::group::Publication;
use failover::{
    ColdStart, Command, Declined, Deed, Fence, MinInSync, Observation, Order, Reason, Request as Inquired,
    Role,
};
use topology::{Endpoint, InSync, Phase, PrimaryRef, State};

use super::client::Call;
use super::kernel::{MS, Sim, Us};
use super::monitor::Timer;
use super::net::{Body, OPENER};
use super::plan::{Ambush, Plan};
use super::redis::{ToServer, index};
use super::store::{Content, Op, Path, Request};

/// A rule that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// R1: a fence that is newer than the record stops nothing, and EXEC comes without WATCH.
    IgnoreFence,
    /// R1: EXEC comes without WATCH.
    NoWatch,
    /// R1: a missing fence is taken for an old one; the store is not asked.
    NilFenceIsZero,
    /// R1, R4, R7: whoever answers at an address is taken for the recorded process.
    AnyRunId,
    /// R1: a new connection between the look and EXEC.
    Reconnects,
    /// R1: the credential in one step, REPLICAOF in another.
    SplitAttach,
    /// Section 2: publications do not check the lead.
    NoLeadCheck,
    /// Section 2: publications do not check the version of the record.
    NoVersionCheck,
    /// Section 2: a publication of unknown outcome is sent again, over whatever stands there.
    ResendsPublication,
    /// Section 3: a promotion is carried out before it is published.
    ActsFirst,
    /// R6: the primary is stamped before the set is published.
    StampsFirst,
    /// R6: the primary is not stamped.
    NeverStamps,
    /// Section 3: a replica that enters is stamped directly.
    StampsReplicas,
    /// R2, section 3: a new epoch because the leader changed.
    EpochPerReign,
    /// R4: any replica is promoted, in sync or not.
    PromotesAnyone,
    /// R4: every replica in the set is said to carry the stamp with which it entered.
    EveryFenceIsNew,
    /// R4: every history is taken for the recorded one.
    EveryHistoryIsOurs,
    /// R4: a full synchronisation under way is not seen.
    SyncingIsFine,
    /// R5: R4 is not looked at again before the promotion.
    NoRecheck,
    /// R5: the promotion in one step, its stamp in another.
    SplitPromotion,
    /// R5: a promotion raises the `since` of the others.
    SinceRaised,
    /// R5: the serving publication evicts somebody.
    EvictsWhileServing,
    /// R5: the serving publication names whatever process answers then.
    RereadsRunId,
    /// R6: `repl-backlog-ttl` stays as it is.
    ForgetsHistory,
    /// R6: the last proven members may be evicted.
    EvictsTheLast,
    /// R6: a member whose process is gone stays.
    KeepsTheGone,
    /// R7 (a): nobody is told of a closed connection.
    NotToldOfClosing,
    /// R7 (b): no replication credential.
    NoRestartGuard,
    /// R7: a primary that is demoted keeps its clients.
    KeepsClients,
    /// R10: the peer is not asked.
    NoSecondOpinion,
    /// R11: a lost session does not end a reign.
    KeepsReign,
    /// R12: a passive monitor is told that it leads.
    AlwaysLeads,
    /// R12: the leader's beat is not heard.
    IgnoresBeats,
    /// R13: a monitor does not notice that it stood still.
    IgnoresStalls,
    /// R13: a question that it sent late counts as the server's silence.
    LateIsSilent,
    /// R14: a member of the set that has not answered is not waited for.
    ColdWhileOneMayLive,
    /// R14: nor is another member.
    ColdWithoutAll,
    /// R14: nor one that loads.
    ColdWhileLoading,
    /// R14: `cold_wait` is not waited for.
    ColdAtOnce,
    /// R14: an operator is not asked.
    ColdForOperator,
    /// R14: one without fence or tick is chosen.
    ColdWithoutProof,
    /// R14: one is chosen that is older than the set.
    ColdFromTooOld,
    /// R14: fence and tick contradict each other, and one is chosen.
    ColdThoughContradicted,
    /// R14: the highest offset is chosen.
    ColdByOffset,
    /// R14: whoever was told least is chosen.
    ColdFromAnyone,
    /// R14: the tick is not looked at.
    ColdByFence,
    /// R14: nobody is detached.
    NoDetachFirst,
    /// R14: nobody counts the tick up.
    NeverTicks,
    /// R15: the old primary is not detached before the new one is promoted.
    NeverDetaches,
    /// R15: what the old primary held in the end is not compared.
    BlindToTheEnd,
    /// R16: a member leaves the set and the group in one publication.
    RemovesAtOnce,
    /// R16: a member leaves the group before the primary is stamped without it.
    RemovesUnstamped,
    /// R16: the last replicas in sync may be removed.
    RemovesTheLast,
    /// R16: who is added is in sync at once, under the same epoch.
    GrowsWithoutEpoch,
    /// R16: who is added counts for `min_in_sync` at once.
    CountsTheAdded,
    /// R16: who is added counts from the next eviction on, although it is not in sync.
    EvictionCountsTheAdded,
    /// R16: a removed member is not told to follow nobody.
    NeverReleases,
    /// R16: who was removed keeps the right to be overwritten.
    StaysAdopted,
    /// R3: one copy is enough.
    OneCopyIsEnough,
    /// R3: copies are counted, as WAIT does, and nobody asks whose they are.
    WaitIsBelieved,
    /// R3: configured addresses are compared with those that ROLE shows.
    AddressesAreCompared,
    /// R3: how far the stream is, is asked before the write.
    MeasuredBeforeTheWrite,
    /// R3: the script does not look at the fence.
    NoFenceInTheScript,
    /// R3: nobody looks at the fence in the end.
    NoFenceAtTheEnd,
    /// R3: nobody asks whether the server is still a primary.
    RoleIsNotRead,
    /// R3: a connection serves whoever answers.
    AnyProcessServes,
    /// R6: writes go on although the set is smaller than `min_in_sync`.
    FewAreEnough,
    /// R8: the barrier goes before the GET.
    BarrierBeforeGet,
    /// R8: there is no confirmed barrier.
    NoBarrier,
    /// R9: a write of unknown outcome is sent again.
    ResendsUnknown,
    /// R9: a write of unknown outcome is told to have failed.
    UnknownIsFailed,
    /// R17: the lost connection is not cut.
    NoKill,
    /// R17: the marker is read before the barrier.
    GetBeforeBarrier,
    /// R17: "not reached" is not confirmed.
    NoIsBelieved,
    /// R17: "reached" is not confirmed.
    YesIsBelieved,
    /// R17: a missing marker is a no.
    MissingIsNo,
    /// R17: a batch does not name the unanswered one before it.
    NoChain,
    /// R17: a process's view may go back.
    ViewsGoBack,
}

impl Flaw {
    /// The one with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|flaw| format!("{flaw:?}") == name)
    }

    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::IgnoreFence,
        Self::NoWatch,
        Self::NilFenceIsZero,
        Self::AnyRunId,
        Self::Reconnects,
        Self::SplitAttach,
        Self::NoLeadCheck,
        Self::NoVersionCheck,
        Self::ResendsPublication,
        Self::ActsFirst,
        Self::StampsFirst,
        Self::NeverStamps,
        Self::StampsReplicas,
        Self::EpochPerReign,
        Self::PromotesAnyone,
        Self::EveryFenceIsNew,
        Self::EveryHistoryIsOurs,
        Self::SyncingIsFine,
        Self::NoRecheck,
        Self::SplitPromotion,
        Self::SinceRaised,
        Self::EvictsWhileServing,
        Self::RereadsRunId,
        Self::ForgetsHistory,
        Self::EvictsTheLast,
        Self::KeepsTheGone,
        Self::NotToldOfClosing,
        Self::NoRestartGuard,
        Self::KeepsClients,
        Self::NoSecondOpinion,
        Self::KeepsReign,
        Self::AlwaysLeads,
        Self::IgnoresBeats,
        Self::IgnoresStalls,
        Self::LateIsSilent,
        Self::ColdWhileOneMayLive,
        Self::ColdWithoutAll,
        Self::ColdWhileLoading,
        Self::ColdAtOnce,
        Self::ColdForOperator,
        Self::ColdWithoutProof,
        Self::ColdFromTooOld,
        Self::ColdThoughContradicted,
        Self::ColdByOffset,
        Self::ColdFromAnyone,
        Self::ColdByFence,
        Self::NoDetachFirst,
        Self::NeverTicks,
        Self::NeverDetaches,
        Self::BlindToTheEnd,
        Self::RemovesAtOnce,
        Self::RemovesUnstamped,
        Self::RemovesTheLast,
        Self::GrowsWithoutEpoch,
        Self::CountsTheAdded,
        Self::EvictionCountsTheAdded,
        Self::NeverReleases,
        Self::StaysAdopted,
        Self::OneCopyIsEnough,
        Self::WaitIsBelieved,
        Self::AddressesAreCompared,
        Self::MeasuredBeforeTheWrite,
        Self::NoFenceInTheScript,
        Self::NoFenceAtTheEnd,
        Self::RoleIsNotRead,
        Self::AnyProcessServes,
        Self::FewAreEnough,
        Self::BarrierBeforeGet,
        Self::NoBarrier,
        Self::ResendsUnknown,
        Self::UnknownIsFailed,
        Self::NoKill,
        Self::GetBeforeBarrier,
        Self::NoIsBelieved,
        Self::YesIsBelieved,
        Self::MissingIsNo,
        Self::NoChain,
        Self::ViewsGoBack,
    ];

    /// It breaks R14, so that everything has to die.
    pub(super) fn is_cold(self) -> bool {
        use Flaw as F;
        matches!(
            self,
            F::ColdWhileOneMayLive
                | F::ColdWithoutAll
                | F::ColdWhileLoading
                | F::ColdAtOnce
                | F::ColdForOperator
                | F::ColdWithoutProof
                | F::ColdFromTooOld
                | F::ColdThoughContradicted
                | F::ColdByOffset
                | F::ColdFromAnyone
                | F::ColdByFence
                | F::NoDetachFirst
        )
    }

    /// It breaks R15.
    pub(super) fn is_of_switchover(self) -> bool {
        matches!(self, Self::NeverDetaches | Self::BlindToTheEnd)
    }

    /// It breaks R15 or R16, so that somebody has to ask.
    pub(super) fn is_of_members(self) -> bool {
        use Flaw as F;
        self.is_of_switchover()
            || matches!(
                self,
                F::RemovesAtOnce
                    | F::RemovesUnstamped
                    | F::RemovesTheLast
                    | F::GrowsWithoutEpoch
                    | F::CountsTheAdded
                    | F::EvictionCountsTheAdded
                    | F::NeverReleases
                    | F::StaysAdopted
            )
    }

    /// What hardly ever comes together by chance is brought about more often.
    pub(super) fn suits(self, plan: &mut Plan) {
        let often = |plan: &mut Plan, kinds: &[usize]| {
            for kind in kinds {
                plan.weights[*kind] = 20;
            }
        };
        match self {
            Self::EveryFenceIsNew | Self::StampsReplicas => plan.ambush = Some(Ambush::LateStamp),
            Self::NoRestartGuard => plan.ambush = Some(Ambush::QuickRestart),
            Self::NoBarrier => plan.ambush = Some(Ambush::CutOff),
            Self::WaitIsBelieved => plan.ambush = Some(Ambush::Strangers),
            Self::BarrierBeforeGet => {
                (plan.ambush, plan.clients, plan.writes) = (Some(Ambush::LateGet), 3, 1);
                (plan.keys, plan.write_every) = (1, 25 * MS);
            }
            Self::YesIsBelieved => plan.ambush = Some(Ambush::LonelyDeath),
            Self::NoKill => (plan.ambush, plan.deadline) = (Some(Ambush::MuteClient), 3000 * MS),
            Self::GetBeforeBarrier => plan.ambush = Some(Ambush::LateStream),
            Self::NoIsBelieved => {
                (plan.ambush, plan.servers) = (Some(Ambush::TwoFailovers), plan.servers.max(3));
                plan.deadline = 3000 * MS;
            }
            Self::NoChain => (plan.ambush, plan.overlap) = (Some(Ambush::DeafClient), 3),
            Self::ViewsGoBack => plan.late_views = 1,
            Self::NilFenceIsZero => often(plan, &[12, 3]),
            Self::NoVersionCheck | Self::NoLeadCheck | Self::ResendsPublication => often(plan, &[3, 10]),
            Self::AnyProcessServes => often(plan, &[0, 13]),
            Self::ColdForOperator => plan.limits.cold_start = ColdStart::Operator,
            Self::NoDetachFirst => {
                if let Some(dark) = &mut plan.dark {
                    dark.files = true;
                }
            }
            Self::EvictsTheLast => plan.limits.min_in_sync = MinInSync::Fixed(0),
            _ => {}
        }
    }
}

/// What `min_in_sync` means by default.
fn auto(members: usize) -> u32 {
    u32::from(members > 2)
}

impl Sim {
    pub(super) fn breaks(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// What a broken driver shows to the core in place of an answer.
    pub(super) fn flawed_look(&self, at: usize, server: usize, mut seen: Observation) -> Observation {
        let (Some(flaw), Some(state)) = (self.flaw, self.monitors[at].group.view().state()) else {
            return seen;
        };
        let addr = &self.servers[server].addr;
        let entry = state.in_sync(addr);
        self.flawed_end(at, server, &mut seen);
        match flaw {
            Flaw::AnyRunId => {
                let primary = (state.primary.addr == *addr).then_some(&state.primary.run_id);
                if let Some(run_id) = primary.or(entry.map(|entry| &entry.run_id)) {
                    seen.run_id.clone_from(run_id);
                }
            }
            Flaw::IgnoreFence => seen.fence = Fence::At(state.epoch),
            Flaw::EveryFenceIsNew => {
                if let Some(entry) = entry {
                    let fence = self.servers[server].data.fence.unwrap_or(0);
                    seen.fence = Fence::At(fence.max(entry.since));
                }
            }
            Flaw::EveryHistoryIsOurs => {
                let recorded = Some(&state.primary.replid).filter(|replid| !replid.is_empty());
                if let Some(replid) = recorded.or(entry.map(|entry| &entry.replid)) {
                    seen.replid.clone_from(replid);
                }
            }
            Flaw::NoDetachFirst if seen.credential.is_none() => {
                if let Role::Replica { source, .. } = &mut seen.role {
                    *source = None;
                }
            }
            Flaw::SyncingIsFine => {
                if let Role::Replica { syncing, .. } = &mut seen.role {
                    *syncing = false;
                }
            }
            _ => {}
        }
        seen
    }

    /// The record as a broken driver hands it to the core.
    pub(super) fn flawed_record(&self, mut state: State) -> State {
        if self.breaks(Flaw::EvictsTheLast) {
            state.min_in_sync = 0;
        }
        state
    }

    /// The checks with which a publication is sent; a broken driver leaves some out.
    pub(super) fn flawed_checks(&self, ops: Vec<Op>) -> Vec<Op> {
        match self.flaw {
            Some(Flaw::NoLeadCheck) => {
                ops.into_iter().filter(|op| !matches!(op, Op::Check(Path::Leader, _))).collect()
            }
            Some(Flaw::NoVersionCheck) => over_anything(ops),
            _ => ops,
        }
    }

    /// A publication of unknown outcome.
    pub(super) fn flawed_resend(&mut self, at: usize) {
        let ops = self.monitors[at].last_publication.take();
        if let Some(ops) = ops.filter(|_| self.breaks(Flaw::ResendsPublication)) {
            let generation = self.monitors[at].client.registered;
            self.call(at, generation, Request::Multi(over_anything(ops)), Call::Nothing);
        }
    }

    /// What a broken driver publishes, and what it does beside. None: nothing is published.
    pub(super) fn flawed_publication(
        &mut self,
        at: usize,
        mut publication: Publication,
    ) -> Option<Publication> {
        let Some(flaw) = self.flaw else { return Some(publication) };
        let old = self.store.state();
        self.flawed_members(at, &mut publication);
        let next = &mut publication.next;
        let promotes = next.promoted == next.epoch && next.phase == Phase::Promoting;
        match flaw {
            Flaw::EvictsTheLast => next.min_in_sync = auto(next.members.len()),
            Flaw::SinceRaised if promotes => {
                next.in_sync.iter_mut().for_each(|entry| entry.since = next.epoch);
            }
            Flaw::EvictsWhileServing => {
                let finishes = old.is_some_and(|old| old.phase == Phase::Promoting);
                if finishes && next.phase == Phase::Serving {
                    next.in_sync.pop();
                }
            }
            Flaw::RereadsRunId if next.phase == Phase::Serving => {
                let now = &self.servers[index(&next.primary.addr)].run_id;
                next.primary.run_id.clone_from(now);
            }
            Flaw::PromotesAnyone if promotes => {
                let mut others =
                    self.servers.iter().filter(|s| s.up && !s.master && next.in_sync(&s.addr).is_none());
                if let Some(other) = others.next_back() {
                    (next.primary.addr, next.primary.run_id) = (other.addr.clone(), other.run_id.clone());
                }
            }
            Flaw::ColdByOffset if next.cold && promotes => {
                let best = self.servers.iter().filter(|s| s.up).max_by_key(|s| s.offset());
                if let Some(best) = best {
                    (next.primary.addr, next.primary.run_id) = (best.addr.clone(), best.run_id.clone());
                }
            }
            Flaw::ColdFromAnyone if next.cold && promotes => {
                let able = self.servers.iter().filter(|s| s.up);
                if let Some(worst) = able.min_by_key(|s| (s.data.fence, s.data.tick)) {
                    (next.primary.addr, next.primary.run_id) = (worst.addr.clone(), worst.run_id.clone());
                }
            }
            Flaw::ColdByFence if next.cold && promotes => {
                let recorded = old.as_ref().map(|old| &old.primary.addr);
                let rank = |s: &&super::redis::Server| (s.data.fence, Some(&s.addr) == recorded);
                if let Some(best) = self.servers.iter().filter(|s| s.up).max_by_key(rank) {
                    (next.primary.addr, next.primary.run_id) = (best.addr.clone(), best.run_id.clone());
                }
            }
            Flaw::KeepsTheGone if next.reason.contains("(restarted)") => return None,
            Flaw::ActsFirst if promotes => self.flawed_order(at, &publication, Deed::Promote { basis: None }),
            Flaw::StampsFirst if !promotes && publication.next.epoch > 1 => {
                self.flawed_order(at, &publication, Deed::Stamp);
            }
            Flaw::StampsReplicas => self.stamp_replicas(at, &publication.next),
            _ => {}
        }
        Some(publication)
    }

    /// R14 waits, and a broken driver does not.
    pub(super) fn flawed_wait(&mut self, at: usize, because: &Reason) {
        let (Some(flaw), Reason::ColdStartWaits(wait)) = (self.flaw, because) else { return };
        let addr = match (flaw, wait) {
            (Flaw::ColdWhileOneMayLive, Wait::MayLive(_))
            | (Flaw::ColdWithoutAll, Wait::Missing(_))
            | (Flaw::ColdWhileLoading, Wait::Loading(_))
            | (Flaw::ColdAtOnce, Wait::Settling)
            | (Flaw::ColdForOperator, Wait::Operator) => {
                let able = self.servers.iter().filter(|s| s.up && s.loading_until <= self.now);
                able.max_by_key(|s| (s.data.fence, s.data.tick)).map(|s| s.addr.clone())
            }
            (Flaw::ColdWithoutProof, Wait::NoProof(addr))
            | (Flaw::ColdFromTooOld, Wait::TooOld(addr))
            | (Flaw::ColdThoughContradicted, Wait::Contradiction(addr, _)) => Some(addr.clone()),
            (_, _) => None,
        };
        if let Some(addr) = addr {
            self.force_cold_start(at, addr);
        }
    }

    /// A request is declined, and a broken driver carries it out.
    pub(super) fn flawed_refusal(&mut self, at: usize, request: &Inquired, why: &Declined) {
        let (Some(Flaw::RemovesTheLast), Declined::TooFew { .. }) = (self.flaw, why) else { return };
        let Inquired::Remove { addr } = request else { return };
        let m = &self.monitors[at];
        let (Some((old, version)), Some(reign)) = (m.group.view().record.clone(), m.lead.reign()) else {
            return;
        };
        let in_sync = old.in_sync.iter().filter(|entry| entry.addr != *addr).cloned().collect();
        let min_in_sync = self.plan.limits.min_in_sync(old.members.len() - 1);
        let next = State { epoch: old.epoch + 1, in_sync, min_in_sync, ..old };
        self.publish_beside(at, reign, version, next);
    }

    /// A publication that the core does not know of.
    fn publish_beside(&mut self, at: usize, reign: i32, version: i32, next: State) {
        let next = Content::State(Rc::new(next));
        let ops = vec![Op::Check(Path::Leader, reign), Op::Set(Path::State, next, version)];
        let generation = self.monitors[at].client.registered;
        let request = Request::Multi(ops);
        self.start(at, 1, Timer::Send { generation, request, call: Call::Nothing });
    }

    /// R16 in a broken driver's publications.
    fn flawed_members(&mut self, at: usize, publication: &mut Publication) {
        let Some(old) = self.monitors[at].group.view().state().cloned() else { return };
        let next = &mut publication.next;
        let (grows, evicts) = (next.epoch > old.epoch, next.in_sync.len() < old.in_sync.len());
        let removing = match self.monitors[at].group.view().asked.as_ref().map(|asked| &asked.request) {
            Some(Inquired::Remove { addr }) => Some(addr.clone()),
            _ => None,
        };
        let stay: Vec<Endpoint> =
            next.members.iter().filter(|addr| Some(*addr) != removing.as_ref()).cloned().collect();
        let shrinks = grows && evicts && removing.is_some_and(|addr| next.in_sync(&addr).is_none());
        let added = next.members.iter().find(|addr| !old.members.contains(addr)).cloned();
        match self.flaw {
            Some(Flaw::RemovesAtOnce) if shrinks => next.members = stay,
            Some(Flaw::RemovesUnstamped) if shrinks => {
                let adopted = next.adopted.iter().filter(|addr| stay.contains(addr)).cloned().collect();
                let gone = State { members: stay, adopted, ..next.clone() };
                if let Some(version) = publication.expected {
                    self.publish_beside(at, publication.reign, version + 1, gone);
                }
            }
            Some(Flaw::GrowsWithoutEpoch) => {
                if let Some(addr) = added {
                    let s = &self.servers[index(&addr)];
                    next.in_sync.push(InSync {
                        addr,
                        seen_as: s.shown.clone(),
                        run_id: s.run_id.clone(),
                        since: next.epoch,
                        replid: s.replid_text(),
                        later: Vec::new(),
                    });
                }
            }
            Some(Flaw::CountsTheAdded) if added.is_some() => next.min_in_sync = auto(next.members.len()),
            Some(Flaw::EvictionCountsTheAdded) if grows && evicts && next.promoted == old.promoted => {
                next.min_in_sync = auto(next.members.len());
            }
            Some(Flaw::StaysAdopted) if next.members.len() < old.members.len() => {
                next.adopted = old.adopted;
            }
            _ => {}
        }
    }

    fn force_cold_start(&mut self, at: usize, addr: Endpoint) {
        let m = &self.monitors[at];
        let (Some((old, version)), Some(reign)) = (m.group.view().record.clone(), m.lead.reign()) else {
            return;
        };
        let run_id = self.servers[index(&addr)].run_id.clone();
        let next = State {
            epoch: old.epoch + 1,
            promoted: old.epoch + 1,
            primary: PrimaryRef { addr, run_id, replid: String::new() },
            in_sync: Vec::new(),
            cold: true,
            phase: Phase::Promoting,
            reason: "cold start by a broken driver".into(),
            ..old
        };
        self.judge_decision(at, &next);
        let next = Content::State(Rc::new(next));
        let ops = vec![Op::Check(Path::Leader, reign), Op::Set(Path::State, next, version)];
        let generation = self.monitors[at].client.registered;
        self.call(at, generation, Request::Multi(ops), Call::Nothing);
    }

    fn flawed_order(&mut self, at: usize, publication: &Publication, deed: Deed) {
        let record = publication.next.clone();
        let order = Order {
            backend: record.primary.addr.clone(),
            deed,
            version: publication.expected.unwrap_or(0),
            reign: publication.reign,
            restart_guard: self.plan.limits.restart_guard,
            record,
        };
        self.take_order(at, order);
    }

    fn stamp_replicas(&mut self, at: usize, next: &State) {
        for entry in next.in_sync.iter().filter(|entry| entry.since == next.epoch) {
            let link = self.monitors[at].executors[index(&entry.addr)].connection();
            if let Some(conn) = link {
                self.send(conn, OPENER, Body::ToServer(ToServer::ForceFence(next.epoch)));
            }
        }
    }

    /// A new reign begins with an epoch of its own.
    pub(super) fn flawed_reign(&mut self, at: usize, reign: i32) {
        let Some((state, version)) = self.monitors[at].group.view().record.clone() else { return };
        if self.breaks(Flaw::EpochPerReign) {
            let next = Content::State(Rc::new(State { epoch: state.epoch + 1, ..state }));
            let ops = vec![Op::Check(Path::Leader, reign), Op::Set(Path::State, next, version)];
            let generation = self.monitors[at].client.registered;
            self.call(at, generation, Request::Multi(ops), Call::Nothing);
        }
    }

    /// The order as a broken driver checks it.
    pub(super) fn flawed_order_check(&self, order: &Order) -> Order {
        match (&order.deed, self.flaw) {
            (Deed::Promote { .. }, Some(Flaw::NoRecheck)) => {
                Order { deed: Deed::Promote { basis: None }, ..order.clone() }
            }
            (_, _) => order.clone(),
        }
    }

    /// The commands that a broken driver sends.
    pub(super) fn flawed_commands(&self, mut commands: Vec<Command>) -> Vec<Command> {
        let promotes = commands.contains(&Command::BecomePrimary);
        commands.retain(|command| match self.flaw {
            Some(Flaw::SplitPromotion) => !(promotes && matches!(command, Command::Stamp(_))),
            Some(Flaw::NeverStamps) => promotes || !matches!(command, Command::Stamp(_)),
            Some(Flaw::ForgetsHistory) => *command != Command::KeepBacklog,
            Some(Flaw::KeepsClients) => *command != Command::CutClients,
            Some(Flaw::NeverTicks) => !matches!(command, Command::Tick { .. }),
            _ => true,
        });
        commands
    }

    /// After a no that is believed: the process stops before the request is sent again.
    pub(super) fn flawed_stop(&mut self, at: usize) {
        if self.breaks(Flaw::NoIsBelieved) && self.healed.is_none() {
            let length = self.rng.u64(500..2200) * MS;
            self.api_stalls(at, length);
        }
    }

    /// How long a broken client waits between the marker and the barrier.
    pub(super) fn flawed_pause(&mut self) -> Us {
        self.rng.u64(0..500) * MS
    }

    pub(super) fn publication_dropped(&mut self, at: usize, number: u64) {
        self.start(at, 10 * MS, Timer::PublicationFailed(number));
    }
}

fn over_anything(ops: Vec<Op>) -> Vec<Op> {
    let any_version = |op| match op {
        Op::Set(Path::State, content, _) => Op::Set(Path::State, content, -1),
        op => op,
    };
    ops.into_iter().map(any_version).collect()
}
