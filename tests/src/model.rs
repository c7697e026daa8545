//! Publication, fence and takeover on a small instance, for an exhaustive check (docs/protocol.md, R1 to R7).
//!
//! Two monitors, two or three servers, one write. The store is linearizable; every message is a step of its own, so a
//! monitor may stand still for ever between any two. Monitors suspect a healthy primary at any moment and take the
//! lead from each other at any moment, for safety rests on neither R10 nor R12. The write may be carried out under any
//! record that was ever published, at any later time. What decides is the real core: [`candidate::refusal`] says who
//! may be promoted, [`Order::check`] what is done to a server, [`judge`] whether the write is acknowledged.

use failover::confirm::{Look as Asked, Next, judge};
use failover::{Command, Deed, Fence, Look, Observation, Order, Role, Verdict, candidate};
use topology::{Endpoint, InSync, Phase, PrimaryRef, State};

/// How far a search goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// Servers; the first one is primary.
    pub servers: u8,
    /// The last epoch.
    pub epochs: u8,
    /// Whether servers leave the set and enter it.
    pub changes: bool,
    /// How often the lead is taken.
    pub takeovers: u8,
    /// How often a server dies for good.
    pub deaths: u8,
    /// How often one restarts empty.
    pub restarts: u8,
    /// How often a fence is erased.
    pub erasures: u8,
    /// The rule that is broken.
    pub flaw: Option<Broken>,
}

/// A rule that is broken, to see that the search notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// EXEC comes without WATCH.
    NoWatch,
    /// Publications do not check the lead, nor the version of the record.
    NoCheck,
    /// Whoever is in the set may be promoted.
    AnyMember,
    /// A missing fence is an old one.
    NilIsZero,
    /// No replication credential.
    NoCredential,
    /// A server that knows a credential lets in replicas without one: whoever is configured to follow it.
    OpenDoor,
    /// One copy is enough.
    OneCopy,
}

/// One entry of a server's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Entry {
    Write,
    Stamp(u8),
    Erase,
}

/// A process at an address.
type Process = (u8, u8);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Server {
    up: bool,
    run: u8,
    /// Whom it follows; nobody: it is a primary.
    source: Option<u8>,
    linked: bool,
    log: Vec<Entry>,
    replid: u8,
    /// The id before the promotion, and how far it went.
    before: Option<(u8, u8)>,
    /// Credentials that it knows, and the one that it uses.
    knows: Vec<(u8, Process)>,
    uses: Option<(u8, Process)>,
    /// What its replicas acknowledged; half-open links stay.
    rows: Vec<(u8, u8)>,
}

impl Server {
    fn fence(&self) -> Option<u8> {
        self.log.iter().rev().find_map(|entry| match entry {
            Entry::Stamp(epoch) => Some(Some(*epoch)),
            Entry::Erase => Some(None),
            Entry::Write => None,
        })?
    }

    fn highest(&self) -> u8 {
        let stamps = self.log.iter().map(|entry| if let Entry::Stamp(epoch) = entry { *epoch } else { 0 });
        stamps.max().unwrap_or(0)
    }
}

/// A published record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Record {
    epoch: u8,
    promoted: u8,
    primary: Process,
    replid: Option<u8>,
    set: Vec<Member>,
    serving: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Member {
    process: Process,
    since: u8,
    replid: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Monitor {
    /// The version at which it took the lead.
    reign: Option<u8>,
    /// What it read, or published, last.
    record: Option<(Record, u8)>,
    /// The record before the promotion that it carries out.
    basis: Option<Record>,
    doing: Doing,
}

/// What a monitor is in the middle of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Doing {
    Nothing,
    Publishing(Record),
    /// It has looked, and will send this.
    Acting {
        at: u8,
        commands: Vec<Act>,
        /// The fence was touched since.
        touched: bool,
        run: u8,
        ask: bool,
    },
}

/// A command that changes something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Act {
    Promote,
    Stamp(u8),
    Follow(u8),
    Make(u8, Process),
    Use(u8, Process),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Client {
    Idle,
    Sent(Record),
    Applied(Record, u8),
    Acknowledged,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    servers: Vec<Server>,
    record: Record,
    version: u8,
    leader: u8,
    reign: u8,
    monitors: [Monitor; 2],
    client: Client,
    /// What was published, for views that come late.
    history: Vec<Record>,
    next_replid: u8,
    takeovers: u8,
    deaths: u8,
    restarts: u8,
    erasures: u8,
    /// A full synchronisation took the write from a replica in sync.
    wiped: bool,
    /// What must not happen happened.
    broken: Option<&'static str>,
}

/// One step of somebody.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// A monitor takes the lead.
    Take(u8),
    /// It reads the record.
    Read(u8),
    /// It decides that this server takes over.
    Failover(u8, u8),
    /// It decides that this one leaves the set.
    Evict(u8, u8),
    /// It decides that this one enters.
    Admit(u8, u8),
    /// It saw the promotion done, and will say so.
    Serve(u8),
    /// It looks at a server, to promote or stamp it, or to have it follow.
    Look(u8, u8),
    /// What it is in the middle of.
    GoOn(u8),
    /// A replica connects.
    Connect(u8),
    /// It takes in one more entry, and says so: an acknowledgement that comes late only delays an answer.
    Stream(u8),
    /// A server dies.
    Die(u8),
    /// It restarts empty.
    Restart(u8),
    /// Its fence is erased.
    Erase(u8),
    /// The client sends its write under the record of this number.
    Send(u8),
    /// The server carries it out, or not.
    Execute,
    /// The client asks who has it.
    Ask,
}

fn addr(at: u8) -> Endpoint {
    ["a:1", "b:1", "c:1", "d:1"][usize::from(at)].parse().expect("an address")
}

fn run_id((at, run): Process) -> String {
    format!("{at}.{run}")
}

fn text(replid: u8) -> String {
    format!("h{replid}")
}

/// The record as the core reads it.
fn state(record: &Record, servers: u8) -> State {
    let entry = |member: &Member| InSync {
        addr: addr(member.process.0),
        seen_as: addr(member.process.0).to_string(),
        run_id: run_id(member.process),
        since: member.since.into(),
        replid: text(member.replid),
        later: Vec::new(),
    };
    State {
        epoch: record.epoch.into(),
        promoted: record.promoted.into(),
        primary: PrimaryRef {
            addr: addr(record.primary.0),
            run_id: run_id(record.primary),
            replid: record.replid.map_or(String::new(), text),
        },
        in_sync: record.set.iter().map(entry).collect(),
        min_in_sync: u32::from(servers > 2),
        members: (0..servers).map(addr).collect(),
        adopted: (0..servers).map(addr).collect(),
        path_version: 0,
        from: None,
        cold: false,
        floor: None,
        phase: if record.serving { Phase::Serving } else { Phase::Promoting },
        leader: String::new(),
        reason: String::new(),
    }
}

impl World {
    /// All is well in epoch 1, and the first monitor leads.
    pub fn new(bounds: &Bounds) -> Self {
        let credential = (1, (0, 0));
        let server = |at: u8| Server {
            up: true,
            run: 0,
            source: (at > 0).then_some(0),
            linked: at > 0,
            log: vec![Entry::Stamp(1)],
            replid: 0,
            before: None,
            knows: if at == 0 { vec![credential] } else { Vec::new() },
            uses: (at > 0 && bounds.flaw != Some(Broken::NoCredential)).then_some(credential),
            rows: if at == 0 { (1..bounds.servers).map(|at| (at, 1)).collect() } else { Vec::new() },
        };
        let member = |at| Member { process: (at, 0), since: 1, replid: 0 };
        let record = Record {
            epoch: 1,
            promoted: 1,
            primary: (0, 0),
            replid: Some(0),
            set: (1..bounds.servers).map(member).collect(),
            serving: true,
        };
        let monitor = |reign: Option<u8>| Monitor {
            reign,
            record: reign.map(|_| (record.clone(), 0)),
            basis: None,
            doing: Doing::Nothing,
        };
        Self {
            servers: (0..bounds.servers).map(server).collect(),
            version: 0,
            leader: 0,
            reign: 0,
            monitors: [monitor(Some(0)), monitor(None)],
            client: Client::Idle,
            history: vec![record.clone()],
            next_replid: 1,
            takeovers: 0,
            deaths: 0,
            restarts: 0,
            erasures: 0,
            wiped: false,
            broken: None,
            record,
        }
    }

    /// Whether what must not happen happened.
    pub fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Whether the write was acknowledged.
    pub fn acknowledged(&self) -> bool {
        self.client == Client::Acknowledged
    }

    /// Whether another server than the first serves.
    pub fn failed_over(&self) -> bool {
        self.record.primary.0 > 0 && self.serves()
    }

    /// Whether an acknowledged write is missing where the record says that the data is, or was taken from a replica
    /// in sync.
    pub fn lost(&self) -> bool {
        let primary = &self.servers[usize::from(self.record.primary.0)];
        self.acknowledged() && (self.wiped || self.serves() && !primary.log.contains(&Entry::Write))
    }

    fn serves(&self) -> bool {
        let (at, run) = self.record.primary;
        let primary = &self.servers[usize::from(at)];
        primary.up
            && primary.run == run
            && primary.source.is_none()
            && primary.fence() == Some(self.record.epoch)
    }

    fn observe(&self, at: u8) -> Option<Observation> {
        let s = &self.servers[usize::from(at)];
        let role = match s.source {
            None => Role::Primary {
                replicas: s.rows.iter().map(|(who, to)| (addr(*who).to_string(), (*to).into())).collect(),
            },
            Some(source) => Role::Replica { source: Some(addr(source)), link_up: s.linked, syncing: false },
        };
        s.up.then(|| Observation {
            run_id: run_id((at, s.run)),
            role,
            replid: text(s.replid),
            offset: s.log.len() as u64,
            fence: s.fence().map_or(Fence::Absent, |fence| Fence::At(fence.into())),
            shows_as: addr(at).to_string(),
            credential: s.uses.map(|(promoted, _)| promoted.into()),
            read_only: true,
            tick: None,
            empty: false,
        })
    }

    /// Whether this member may be promoted from this record now, and its replication id.
    fn eligible(&self, bounds: &Bounds, record: &Record, member: &Member) -> Option<u8> {
        let seen = self.observe(member.process.0)?;
        let state = state(record, bounds.servers);
        let entry = state.in_sync(&addr(member.process.0))?;
        let any = bounds.flaw == Some(Broken::AnyMember) && !matches!(seen.role, Role::Primary { .. });
        (any || candidate::refusal(&state, entry, &seen).is_none())
            .then(|| self.servers[usize::from(member.process.0)].replid)
    }

    fn follows(&self, at: u8, primary: Process) -> bool {
        let s = &self.servers[usize::from(at)];
        s.up && s.linked && s.source == Some(primary.0)
    }

    fn proven(&self, record: &Record, member: &Member) -> bool {
        let s = &self.servers[usize::from(member.process.0)];
        s.run == member.process.1
            && self.follows(member.process.0, record.primary)
            && s.fence() >= Some(member.since)
    }

    /// Every step that somebody could do next.
    pub fn steps(&self, bounds: &Bounds) -> Vec<Step> {
        let mut steps = Vec::new();
        for m in 0..2 {
            self.monitor_steps(bounds, m, &mut steps);
        }
        for at in 0..bounds.servers {
            self.server_steps(bounds, at, &mut steps);
        }
        match &self.client {
            Client::Idle => steps.extend((0..self.history.len()).map(|view| Step::Send(view as u8))),
            Client::Sent(_) => steps.push(Step::Execute),
            Client::Applied(..) => steps.push(Step::Ask),
            Client::Acknowledged => {}
        }
        steps
    }

    fn monitor_steps(&self, bounds: &Bounds, m: u8, steps: &mut Vec<Step>) {
        let monitor = &self.monitors[usize::from(m)];
        if self.leader != m && self.takeovers < bounds.takeovers {
            steps.push(Step::Take(m));
        }
        if monitor.reign.is_none() {
            return;
        }
        let Some((record, _)) = &monitor.record else {
            return steps.push(Step::Read(m));
        };
        if monitor.doing != Doing::Nothing {
            return steps.push(Step::GoOn(m));
        }
        let grows = record.epoch < bounds.epochs;
        let primary = self.observe(record.primary.0);
        let takes = primary.as_ref().is_some_and(|seen| {
            seen.run_id == run_id(record.primary) && matches!(seen.role, Role::Primary { .. })
        });
        let stamped = takes && primary.is_some_and(|seen| seen.fence == Fence::At(record.epoch.into()));
        for member in record.set.iter().filter(|_| grows) {
            if self.eligible(bounds, record, member).is_some() {
                steps.push(Step::Failover(m, member.process.0));
            }
        }
        if !record.serving {
            steps.push(if stamped { Step::Serve(m) } else { Step::Look(m, record.primary.0) });
        } else if takes && !stamped {
            steps.push(Step::Look(m, record.primary.0));
        }
        if !record.serving || !takes {
            return;
        }
        for at in (0..bounds.servers).filter(|at| *at != record.primary.0) {
            let member = record.set.iter().find(|member| member.process.0 == at);
            let s = &self.servers[usize::from(at)];
            if !s.up {
                continue;
            }
            let restarted = member.is_some_and(|member| member.process.1 != s.run);
            let strays = s.source != Some(record.primary.0)
                || (bounds.flaw != Some(Broken::NoCredential)
                    && s.uses != Some((record.promoted, record.primary)));
            if strays && !restarted {
                steps.push(Step::Look(m, at));
            }
            let same = s.replid == self.servers[usize::from(record.primary.0)].replid;
            if bounds.changes
                && member.is_none()
                && grows
                && same
                && !strays
                && self.follows(at, record.primary)
            {
                steps.push(Step::Admit(m, at));
            }
        }
        for member in record.set.iter().filter(|_| grows && bounds.changes) {
            let others = record.set.iter().filter(|other| *other != member);
            let left = others.filter(|other| self.proven(record, other)).count();
            let restarted = self.servers[usize::from(member.process.0)].run != member.process.1;
            if restarted || left >= usize::from(bounds.servers > 2) {
                steps.push(Step::Evict(m, member.process.0));
            }
        }
    }

    fn server_steps(&self, bounds: &Bounds, at: u8, steps: &mut Vec<Step>) {
        let s = &self.servers[usize::from(at)];
        if !s.up {
            return;
        }
        if let Some(source) = s.source {
            let from = &self.servers[usize::from(source)];
            if !s.linked && from.up && lets_in(bounds, s, from) {
                steps.push(Step::Connect(at));
            }
            if s.linked && from.up && s.log.len() < from.log.len() {
                steps.push(Step::Stream(at));
            }
        }
        if self.deaths < bounds.deaths {
            steps.push(Step::Die(at));
        }
        if self.restarts < bounds.restarts {
            steps.push(Step::Restart(at));
        }
        if self.erasures < bounds.erasures && s.source.is_none() && s.fence().is_some() {
            steps.push(Step::Erase(at));
        }
    }

    /// The world after this step.
    pub fn after(&self, bounds: &Bounds, step: &Step) -> Self {
        let mut next = self.clone();
        match step {
            Step::Take(m) => next.take(*m),
            Step::Read(m) => {
                next.monitors[usize::from(*m)].record = Some((next.record.clone(), next.version));
            }
            Step::Failover(m, at) => next.plan_failover(bounds, *m, *at),
            Step::Evict(m, at) => next.plan(*m, |record| record.set.retain(|e| e.process.0 != *at)),
            Step::Admit(m, at) => {
                let s = &self.servers[usize::from(*at)];
                let (process, replid) = ((*at, s.run), s.replid);
                next.plan(*m, |record| {
                    record.set.push(Member { process, since: record.epoch, replid });
                    record.set.sort_by_key(|member| member.process);
                });
            }
            Step::Serve(m) => next.plan_serving(*m),
            Step::Look(m, at) => next.look(bounds, *m, *at),
            Step::GoOn(m) => next.go_on(bounds, *m),
            Step::Connect(at) => next.connect(*at),
            Step::Stream(at) => next.stream(*at),
            Step::Die(at) => {
                next.deaths += 1;
                next.end(*at);
            }
            Step::Restart(at) => {
                next.restarts += 1;
                next.restart(*at);
            }
            Step::Erase(at) => {
                next.erasures += 1;
                next.append(*at, Entry::Erase);
            }
            Step::Send(view) => next.client = Client::Sent(self.history[usize::from(*view)].clone()),
            Step::Execute => next.execute(),
            Step::Ask => next.ask(bounds),
        }
        next
    }

    // -- monitors ------------------------------------------------------------------------------------------------

    fn take(&mut self, m: u8) {
        self.takeovers += 1;
        self.reign += 1;
        self.leader = m;
        self.monitors[usize::from(m)] =
            Monitor { reign: Some(self.reign), record: None, basis: None, doing: Doing::Nothing };
    }

    fn plan(&mut self, m: u8, change: impl FnOnce(&mut Record)) {
        let monitor = &mut self.monitors[usize::from(m)];
        let Some((record, _)) = &monitor.record else { return };
        let mut next = Record { epoch: record.epoch + 1, ..record.clone() };
        // The replication id is what the primary says now.
        next.replid = Some(self.servers[usize::from(record.primary.0)].replid);
        change(&mut next);
        monitor.doing = Doing::Publishing(next);
    }

    fn plan_serving(&mut self, m: u8) {
        let monitor = &mut self.monitors[usize::from(m)];
        let Some((record, _)) = &monitor.record else { return };
        let replid = Some(self.servers[usize::from(record.primary.0)].replid);
        monitor.doing = Doing::Publishing(Record { serving: true, replid, ..record.clone() });
    }

    /// R5: the others that are eligible stay, and while that are too few, all others.
    fn plan_failover(&mut self, bounds: &Bounds, m: u8, to: u8) {
        let Some((old, _)) = self.monitors[usize::from(m)].record.clone() else { return };
        let others = || old.set.iter().filter(|member| member.process.0 != to);
        let kept = |member: &Member| {
            let replid = self.eligible(bounds, &old, member)?;
            Some(Member { replid, ..member.clone() })
        };
        let mut set: Vec<Member> = others().filter_map(kept).collect();
        if set.len() < usize::from(bounds.servers > 2) {
            set = others().cloned().collect();
        }
        let epoch = old.epoch + 1;
        let process = (to, self.servers[usize::from(to)].run);
        let next = Record { epoch, promoted: epoch, primary: process, replid: None, set, serving: false };
        self.monitors[usize::from(m)].doing = Doing::Publishing(next);
    }

    fn look(&mut self, bounds: &Bounds, m: u8, at: u8) {
        let monitor = &self.monitors[usize::from(m)];
        let (Some((record, version)), Some(reign)) = (monitor.record.clone(), monitor.reign) else { return };
        let basis = monitor.basis.as_ref().map(|basis| state(basis, bounds.servers));
        let deed = match (record.primary.0 == at, record.serving) {
            (true, false) => Deed::Promote { basis },
            (true, true) => Deed::Stamp,
            (false, _) => Deed::Attach,
        };
        let order = Order {
            backend: addr(at),
            deed,
            record: state(&record, bounds.servers),
            version: version.into(),
            reign: reign.into(),
            restart_guard: bounds.flaw != Some(Broken::NoCredential),
        };
        let Some(seen) = self.observe(at) else { return self.give_up(m) };
        let verdict = order.check(&Look { seen, holds_data: true, guarded: false });
        let (commands, ask) = match verdict {
            Verdict::Exec(commands) => (commands, false),
            Verdict::AskStore(commands) => (commands, bounds.flaw != Some(Broken::NilIsZero)),
            Verdict::Nothing | Verdict::Deposed(_) | Verdict::Refused(_) => return self.give_up(m),
        };
        let (touched, run) = (false, self.servers[usize::from(at)].run);
        let commands = commands.iter().filter_map(|command| act(command, record.primary)).collect();
        self.monitors[usize::from(m)].doing = Doing::Acting { at, commands, touched, run, ask };
    }

    /// Start again from what is read.
    fn give_up(&mut self, m: u8) {
        let monitor = &mut self.monitors[usize::from(m)];
        (monitor.record, monitor.basis, monitor.doing) = (None, None, Doing::Nothing);
    }

    fn go_on(&mut self, bounds: &Bounds, m: u8) {
        let monitor = &mut self.monitors[usize::from(m)];
        let stands = monitor.reign == Some(self.reign) && self.leader == m;
        let read = monitor.record.as_ref().map(|(_, version)| *version);
        let stands = stands && read == Some(self.version);
        match std::mem::replace(&mut monitor.doing, Doing::Nothing) {
            Doing::Nothing => {}
            Doing::Publishing(next) => {
                if stands || bounds.flaw == Some(Broken::NoCheck) {
                    self.publish(m, next);
                } else {
                    self.give_up(m);
                }
            }
            Doing::Acting { ask: true, .. } if !stands => self.give_up(m),
            Doing::Acting { at, commands, touched, run, ask: true } => {
                monitor.doing = Doing::Acting { at, commands, touched, run, ask: false };
            }
            Doing::Acting { at, commands, touched, run, ask: false } => {
                let epoch = monitor.record.as_ref().map_or(0, |(record, _)| record.epoch);
                let s = &self.servers[usize::from(at)];
                let watched = !touched || bounds.flaw == Some(Broken::NoWatch);
                // Another process is another connection.
                if s.up && s.run == run && watched {
                    self.exec(at, epoch, &commands);
                } else {
                    self.give_up(m);
                }
            }
        }
    }

    fn publish(&mut self, m: u8, next: Record) {
        if next.epoch < self.record.epoch {
            self.broken = Some("an epoch was published after a later one");
        }
        if next.epoch == self.record.epoch
            && (next.primary != self.record.primary
                || next.set.iter().map(|e| e.process).ne(self.record.set.iter().map(|e| e.process)))
        {
            self.broken = Some("an epoch means two things");
        }
        self.version += 1;
        let before = std::mem::replace(&mut self.record, next.clone());
        if self.history.iter().all(|known| known.epoch != next.epoch) {
            self.history.push(next.clone());
        }
        let monitor = &mut self.monitors[usize::from(m)];
        monitor.basis = (!next.serving).then_some(before);
        monitor.record = Some((next, self.version));
    }

    fn exec(&mut self, at: u8, epoch: u8, commands: &[Act]) {
        if epoch < self.servers[usize::from(at)].highest() {
            self.broken = Some("a command of a deposed monitor took effect");
        }
        for command in commands {
            match command {
                Act::Promote => self.promote(at),
                Act::Stamp(epoch) => self.append(at, Entry::Stamp(*epoch)),
                Act::Follow(to) => self.follow(at, *to),
                Act::Make(promoted, process) => {
                    let knows = &mut self.servers[usize::from(at)].knows;
                    if !knows.contains(&(*promoted, *process)) {
                        knows.push((*promoted, *process));
                        knows.sort_unstable();
                    }
                }
                Act::Use(promoted, process) => {
                    self.servers[usize::from(at)].uses = Some((*promoted, *process));
                }
            }
        }
    }

    fn append(&mut self, at: u8, entry: Entry) {
        self.servers[usize::from(at)].log.push(entry);
        if entry != Entry::Write {
            self.touch(at);
        }
    }

    /// What WATCH notices.
    fn touch(&mut self, server: u8) {
        for monitor in &mut self.monitors {
            if let Doing::Acting { at, touched, .. } = &mut monitor.doing {
                *touched |= *at == server;
            }
        }
    }

    // -- servers -------------------------------------------------------------------------------------------------

    fn promote(&mut self, at: u8) {
        let fresh = self.next_replid;
        let s = &mut self.servers[usize::from(at)];
        if s.source.is_none() {
            return;
        }
        self.next_replid += 1;
        s.before = Some((s.replid, s.log.len() as u8));
        (s.source, s.linked, s.replid) = (None, false, fresh);
        self.drop_replicas(at);
    }

    fn follow(&mut self, at: u8, to: u8) {
        self.drop_replicas(at);
        let s = &mut self.servers[usize::from(at)];
        (s.source, s.linked) = (Some(to), false);
        s.rows.clear();
    }

    fn drop_replicas(&mut self, at: u8) {
        self.servers.iter_mut().filter(|s| s.source == Some(at)).for_each(|s| s.linked = false);
    }

    fn connect(&mut self, at: u8) {
        let Some(source) = self.servers[usize::from(at)].source else { return };
        let from = self.servers[usize::from(source)].clone();
        let s = &mut self.servers[usize::from(at)];
        s.linked = true;
        let offset = s.log.len();
        let same = s.replid == from.replid && offset <= from.log.len();
        let before = from.before.is_some_and(|(id, to)| id == s.replid && offset <= usize::from(to));
        if !same && !before {
            let had = s.log.contains(&Entry::Write) && !from.log.contains(&Entry::Write);
            if had && self.record.set.iter().any(|member| member.process == (at, s.run)) {
                self.wiped = true;
            }
            (s.log, s.before) = (from.log, None);
            s.replid = from.replid;
            self.touch(at);
        }
        self.servers[usize::from(at)].replid = from.replid;
        self.drop_replicas(at);
        self.ack(at);
    }

    fn stream(&mut self, at: u8) {
        let Some(source) = self.servers[usize::from(at)].source else { return };
        let entry =
            self.servers[usize::from(source)].log.get(self.servers[usize::from(at)].log.len()).copied();
        if let Some(entry) = entry {
            self.append(at, entry);
            self.ack(at);
        }
    }

    fn ack(&mut self, at: u8) {
        let Some(source) = self.servers[usize::from(at)].source else { return };
        let offset = self.servers[usize::from(at)].log.len() as u8;
        let rows = &mut self.servers[usize::from(source)].rows;
        rows.retain(|(who, _)| *who != at);
        rows.push((at, offset));
        rows.sort_unstable();
    }

    fn end(&mut self, at: u8) {
        let s = &mut self.servers[usize::from(at)];
        (s.up, s.linked) = (false, false);
        s.rows.clear();
        self.drop_replicas(at);
    }

    /// Empty, and whatever its configuration says: a primary stays one, a replica follows whom it followed first.
    fn restart(&mut self, at: u8) {
        self.end(at);
        let fresh = self.next_replid;
        self.next_replid += 1;
        let s = &mut self.servers[usize::from(at)];
        *s = Server {
            up: true,
            run: s.run + 1,
            source: (at > 0).then_some(0),
            linked: false,
            log: Vec::new(),
            replid: fresh,
            before: None,
            knows: Vec::new(),
            uses: None,
            rows: Vec::new(),
        };
    }

    // -- the client ----------------------------------------------------------------------------------------------

    /// The script: writes only under the view's epoch (R3).
    fn execute(&mut self) {
        let Client::Sent(view) = std::mem::replace(&mut self.client, Client::Idle) else { return };
        let s = &mut self.servers[usize::from(view.primary.0)];
        let fits = s.up && s.run == view.primary.1 && s.source.is_none() && s.fence() == Some(view.epoch);
        if fits && !s.log.contains(&Entry::Write) {
            s.log.push(Entry::Write);
            let needed = s.log.len() as u8;
            self.client = Client::Applied(view, needed);
        }
    }

    fn ask(&mut self, bounds: &Bounds) {
        let Client::Applied(view, needed) = &self.client else { return };
        let (at, run) = view.primary;
        let s = &self.servers[usize::from(at)];
        let rows: Vec<(String, u64)> =
            s.rows.iter().map(|(who, to)| (addr(*who).to_string(), (*to).into())).collect();
        let primary = s.up && s.run == run && s.source.is_none();
        let asked = Asked {
            offset: primary.then_some((*needed).into()),
            waited: true,
            replicas: primary.then_some(rows.as_slice()),
            fence: s.fence().map(u64::from),
        };
        let state = state(view, bounds.servers);
        let next = judge(&state.in_sync, state.epoch, (*needed).into(), &asked);
        if next == Next::Acknowledge || (bounds.flaw == Some(Broken::OneCopy) && primary) {
            self.client = Client::Acknowledged;
        }
    }
}

/// A primary, or a replica that follows one, lets in who knows its credential. Where there is none yet it lets in
/// everybody; afterwards nobody without one, else a replica that restarted would confirm, under its old address, what
/// is written at a primary that was deposed by that very replica.
fn lets_in(bounds: &Bounds, s: &Server, from: &Server) -> bool {
    let open = bounds.flaw == Some(Broken::OpenDoor) || from.knows.is_empty();
    (from.source.is_none() || from.linked) && s.uses.map_or(open, |used| from.knows.contains(&used))
}

/// What of a command matters here. All servers are known by their place.
fn act(command: &Command, primary: Process) -> Option<Act> {
    match command {
        Command::BecomePrimary => Some(Act::Promote),
        Command::Stamp(epoch) => Some(Act::Stamp(*epoch as u8)),
        Command::Follow(_) => Some(Act::Follow(primary.0)),
        Command::CreateCredential { promoted, .. } => Some(Act::Make(*promoted as u8, primary)),
        Command::UseCredential { promoted, .. } => Some(Act::Use(*promoted as u8, primary)),
        Command::UseLogin(_)
        | Command::ReadOnly
        | Command::KeepBacklog
        | Command::Detach
        | Command::OpenToReplicas
        | Command::Tick { .. }
        | Command::CutClients
        | Command::Pause(_)
        | Command::Unpause => None,
    }
}
