//! The only loop of the monitor: waits for one thing to happen, hands it to the core, does what the core asks.
//!
//! Everything that happens arrives as an [`Input`]: answers of Redis servers, changes in ZooKeeper, heartbeats of
//! the peer, ends of publications and orders. Nothing is awaited in here but the next input, so that one hung server
//! or a slow ZooKeeper delays nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use binary_star::{Handle, PairEvent, State as PairState};
use failover::lead::{Bid, Lead, Peer};
use failover::{Action, Event, Health, Order, Outcome, PublishOutcome, Reason, Time, Timeline};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until};
use topology::zookeeper::{PublishError, Seen, Session, SessionPhase, Store, Versioned};
use topology::{Endpoint, Layout, LeaderRecord, MonitorRecord, Phase, ZnodePath};
use tracing::{debug, error, info, warn};

use crate::admin::Question;
use crate::clock::Clock;
use crate::config::Config;
use crate::metrics::{Metrics, OfBackend, OfService, phases};
use crate::publisher::{NameError, Publisher};
use crate::service::{Service, Surroundings, forward, path_event, state_event};
use crate::status;

/// Everything that can happen.
#[derive(Debug)]
pub(crate) enum Input {
    /// Something about one service.
    Group(String, Event),
    /// A probe was answered after so long.
    Probed(Duration),
    /// A server refused us with these words.
    Words(String, Endpoint, String),
    /// An order was carried out.
    Acted(String, Order),
    /// Heartbeats and states of the pair.
    Pair(PairEvent),
    /// The ZooKeeper session changed.
    Session(Session),
    /// Our name is registered under the session of this generation.
    Registered(u64),
    /// Our name is held by another process.
    NameTaken(MonitorRecord),
    /// The leader record was read.
    Leader(Option<(LeaderRecord, i32)>),
    /// An attempt to take the lead ended.
    LeadTaken(Result<i32, PublishError>),
    /// The znode of the holder of the lead was read.
    Beat(String, Option<(String, u64)>),
    /// The monitors that are there.
    Monitors(Vec<String>),
    /// What a monitor thinks of a service's backends.
    Opinion(String, String, Option<BTreeSet<Endpoint>>),
    /// An opinion of ours was written, or could not be.
    OpinionWritten(String, bool),
    /// The services below `discover`.
    Discovered(Vec<String>),
    /// Admin HTTP asks.
    Ask(Question, oneshot::Sender<Value>),
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

/// Why the loop ended.
#[derive(Debug)]
pub(crate) enum End {
    /// It was asked to.
    Stopped,
    /// Our name is held by another process, on this host.
    NameTaken(MonitorRecord),
}

/// The monitor at work.
pub(crate) struct Driver {
    around: Surroundings,
    store: Store,
    layout: Layout,
    me: LeaderRecord,
    record: MonitorRecord,
    pair: Option<Handle>,
    lead: Lead,
    services: BTreeMap<String, Service>,
    opinions: BTreeMap<(String, String), Option<BTreeSet<Endpoint>>>,
    views: BTreeMap<(String, String), JoinHandle<()>>,
    holder: Option<(String, JoinHandle<()>)>,
    session: Option<Session>,
    registered: Option<u64>,
    name_taken: Option<(MonitorRecord, Time)>,
    reign: Option<i32>,
    leads_since: Option<Time>,
    metrics: Metrics,
    last_turn: Time,
    next_beat: Time,
    bad_heartbeats: u64,
}

impl Driver {
    /// A driver that has not begun.
    pub(crate) fn new(
        config: Arc<Config>,
        clock: Clock,
        store: Store,
        inputs: mpsc::UnboundedSender<Input>,
        pair: Option<Handle>,
        record: MonitorRecord,
    ) -> Self {
        let layout = Layout::new(config.zookeeper.state_root.clone());
        let me = LeaderRecord { name: config.name().to_owned(), instance: record.instance.clone() };
        let peer = if pair.is_some() { Peer::Active } else { Peer::None };
        let publisher = Publisher::new(store.clone(), layout.clone());
        Self {
            lead: Lead::new(me.clone(), config.binary_star.heartbeat, peer),
            around: Surroundings { config, clock, inputs, publisher },
            store,
            layout,
            me,
            record,
            pair,
            services: BTreeMap::new(),
            opinions: BTreeMap::new(),
            views: BTreeMap::new(),
            holder: None,
            session: None,
            registered: None,
            name_taken: None,
            reign: None,
            leads_since: None,
            metrics: Metrics::new(),
            last_turn: Time::ZERO,
            next_beat: Time::ZERO,
            bad_heartbeats: 0,
        }
    }

    /// Runs until it is stopped.
    pub(crate) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Input>) -> End {
        self.follow_shared();
        for path in self.around.config.zookeeper.path.clone() {
            self.add_service(path, false);
        }
        self.last_turn = self.around.clock.now();
        loop {
            let wake = self.around.clock.instant(self.deadline());
            let input = tokio::select! {
                biased;
                input = inbox.recv() => input,
                () = sleep_until(wake) => None,
            };
            self.notice_stall();
            match input {
                Some(Input::Stop) => return self.stop().await,
                Some(input) => self.take(input),
                None => {}
            }
            if let Some(end) = self.tick() {
                return end;
            }
        }
    }

    fn now(&self) -> Time {
        self.around.clock.now()
    }

    fn heartbeat(&self) -> Duration {
        self.around.config.binary_star.heartbeat
    }

    /// The loop turns at least once a heartbeat, so that a stall of this process shows (R13).
    fn deadline(&self) -> Time {
        let groups = self.services.values().filter_map(|service| service.group.poll_timeout());
        let lead = self.lead.deadline(self.last_turn);
        groups.chain(lead).chain([self.next_beat]).min().unwrap_or_default()
    }

    fn notice_stall(&mut self) {
        let now = self.now();
        let late = now.saturating_sub(self.last_turn + self.heartbeat());
        self.last_turn = now;
        // Half of down_after at most: a stall must not look like a server's silence where that limit is the shorter.
        if late > self.heartbeat().min(self.around.config.detector.down_after / 2) {
            warn!(late_ms = late.as_millis() as u64, "this monitor stood still; silence is measured anew");
            self.lead.stalled(now);
            self.all_groups(&Event::Stalled);
        }
    }

    fn all_groups(&mut self, event: &Event) {
        for name in self.services.keys().cloned().collect::<Vec<_>>() {
            self.group(&name, event.clone());
        }
    }

    /// Follows what all services share.
    fn follow_shared(&self) {
        let inputs = || self.around.inputs.clone();
        forward(self.store.follow(&self.layout.leader()), inputs(), Input::Leader, leader_event);
        let monitors = self.store.follow_children(&self.layout.monitors());
        forward(monitors, inputs(), Input::Monitors, |seen| seen.there().cloned());
        if let Some(parent) = &self.around.config.zookeeper.discover {
            let children = self.store.follow_children(parent.as_str());
            forward(children, inputs(), Input::Discovered, |seen| match seen {
                Seen::NotYet => None,
                Seen::Absent => Some(Vec::new()),
                Seen::There(names) => Some(names.clone()),
            });
        }
        let (mut session, inputs) = (self.store.session(), inputs());
        tokio::spawn(async move {
            loop {
                let now = *session.borrow_and_update();
                if inputs.send(Input::Session(now)).is_err() || session.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Group(name, event) => {
                self.tell(&name, &event);
                self.group(&name, event);
            }
            Input::Probed(took) => self.metrics.probe_seconds.observe(took.as_secs_f64()),
            Input::Words(name, addr, words) => {
                if let Some(service) = self.services.get_mut(&name)
                    && service.words.get(&addr) != Some(&words)
                {
                    warn!(service = name, backend = %addr, "{words}");
                    service.words.insert(addr, words);
                }
            }
            Input::Acted(name, order) => acted(&name, &order),
            Input::Pair(event) => self.pair_event(event),
            Input::Session(session) => self.session_changed(session),
            Input::Registered(generation) => self.now_registered(generation),
            Input::NameTaken(by) => {
                let since = self.name_taken.as_ref().map_or(self.now(), |(_, since)| *since);
                if self.name_taken.is_none() {
                    let (name, host, wait) = (&self.me.name, &by.host, self.name_wait());
                    warn!(
                        "the name `{name}` is held by a monitor on {host}; waiting up to {wait:?} for it to end"
                    );
                }
                self.name_taken = Some((by, since));
            }
            Input::Leader(record) => self.lead.record(record),
            Input::LeadTaken(result) => self.lead_taken(result),
            Input::Beat(holder, beat) => {
                if self.holder.as_ref().is_some_and(|(name, _)| *name == holder) {
                    let now = self.now();
                    self.lead.beat(beat, now);
                }
            }
            Input::Monitors(names) => self.monitors(&names),
            Input::Opinion(monitor, service, unreachable) => {
                self.opinions.insert((monitor, service.clone()), unreachable);
                self.pass_opinion(&service);
            }
            Input::OpinionWritten(name, written) => {
                if let Some(service) = self.services.get_mut(&name) {
                    service.writes_opinion = false;
                    service.opinion = service.opinion.take().filter(|_| written);
                }
                self.write_opinion(&name);
            }
            Input::Discovered(names) => self.discovered(&names),
            Input::Ask(question, answer) => {
                // Whoever asked may be gone.
                let _ = answer.send(self.answer(&question));
            }
            Input::Reload => {
                info!("SIGHUP: nothing of this configuration can be reloaded yet; restart to change it")
            }
            Input::Stop => {}
        }
    }

    /// What is due at this moment, whatever woke the loop.
    fn tick(&mut self) -> Option<End> {
        let now = self.now();
        let due: Vec<String> = self
            .services
            .iter()
            .filter(|(_, service)| service.group.poll_timeout().is_some_and(|at| at <= now))
            .map(|(name, _)| name.clone())
            .collect();
        due.into_iter().for_each(|name| self.group(&name, Event::Tick));
        self.tend_lead(now);
        if now >= self.next_beat {
            self.next_beat = now + self.heartbeat();
            self.beat();
            self.show();
        }
        match &self.name_taken {
            Some((by, since)) if now >= *since + self.name_wait() => Some(End::NameTaken(by.clone())),
            Some(_) | None => None,
        }
    }

    // -- the services --------------------------------------------------------------------------------------------

    fn add_service(&mut self, path: ZnodePath, discovered: bool) {
        let name = path.name().to_owned();
        if let Some(known) = self.services.get(&name) {
            if known.path != path {
                warn!("service {path} is ignored: the name `{name}` belongs to {}", known.path);
                self.metrics.ignored_services.inc();
            }
            return;
        }
        let limits = self.around.config.limits();
        let mut service = Service::new(path.clone(), limits, &self.me.name, discovered);
        let (state, announced) =
            (self.store.follow(&self.layout.state(&path)), self.store.follow(path.as_str()));
        service.follow(state, announced, &self.around.inputs);
        self.services.insert(name.clone(), service);
        info!(service = name, "watching {path}");
        let answers = self.session.is_some_and(|session| session.phase == SessionPhase::Connected);
        self.group(&name, Event::Store(answers));
        self.group(&name, Event::Reign(self.reign));
        let others: Vec<String> = self.views.keys().map(|(monitor, _)| monitor.clone()).collect();
        others.into_iter().for_each(|monitor| self.follow_view(&monitor, &name));
    }

    fn remove_service(&mut self, name: &str) {
        let Some(service) = self.services.remove(name) else { return };
        info!(service = name, "{} is gone; not watched any more", service.path);
        self.metrics.forget(name, service.backends.keys().map(ToString::to_string));
        self.views.retain(|(_, of), task| {
            let keep = of != name;
            if !keep {
                task.abort();
            }
            keep
        });
    }

    fn discovered(&mut self, names: &[String]) {
        let Some(parent) = self.around.config.zookeeper.discover.clone() else { return };
        let gone: Vec<String> = self
            .services
            .iter()
            .filter(|(name, service)| service.discovered && !names.contains(name))
            .map(|(name, _)| name.clone())
            .collect();
        gone.iter().for_each(|name| self.remove_service(name));
        for name in names {
            match parent.child(name) {
                Ok(path) => self.add_service(path, true),
                Err(error) => warn!("not a service: {error}"),
            }
        }
    }

    fn group(&mut self, name: &str, event: Event) {
        let clock = self.around.clock;
        let Some(service) = self.services.get_mut(name) else { return };
        let actions = service.handle(event, clock);
        service.tend_probes(&self.around);
        for action in actions {
            self.perform(name, action);
        }
        if let Some(service) = self.services.get_mut(name) {
            tell_primary(name, service);
        }
        self.write_opinion(name);
    }

    fn perform(&mut self, name: &str, action: Action) {
        let Some(service) = self.services.get(name) else { return };
        match action {
            Action::Publish(publication) => {
                let (publisher, path) = (self.bound_publisher(), service.path.clone());
                self.later(name, async move {
                    let outcome = publisher.publish(&path, &publication).await;
                    if outcome == PublishOutcome::Failed {
                        // Not at once: ZooKeeper is away, or somebody else is faster.
                        sleep(Duration::from_millis(10)).await;
                    }
                    vec![Event::Published(publication.number, outcome)]
                });
            }
            Action::Order(order) => match service.backends.get(&order.backend) {
                Some(backend) => backend.order(order),
                None => self.later(name, async move { vec![Event::Ordered(order.backend, Outcome::Lost)] }),
            },
            Action::Look(addr) => {
                if let Some(backend) = service.backends.get(&addr) {
                    backend.look();
                }
            }
            Action::Reread => {
                let (store, path, state) =
                    (self.store.clone(), service.path.clone(), self.layout.state(&service.path));
                self.later(name, async move {
                    let (state, path) = tokio::join!(store.get(&state), store.get(path.as_str()));
                    let read = |found: Option<Versioned>| found.map_or(Seen::Absent, Seen::There);
                    let state = state.ok().and_then(|found| state_event(&read(found)));
                    let path = path.ok().and_then(|found| path_event(&read(found)));
                    state.into_iter().chain(path).collect()
                });
            }
            Action::Say(reason) => self.say(name, &reason),
            Action::Completed(timeline) => self.completed(name, &timeline),
        }
    }

    /// Runs something beside the loop and hands its events to the group when it ends.
    fn later(&self, name: &str, work: impl Future<Output = Vec<Event>> + Send + 'static) {
        let (inputs, name) = (self.around.inputs.clone(), name.to_owned());
        tokio::spawn(async move {
            for event in work.await {
                // The driver ends after its tasks.
                let _ = inputs.send(Input::Group(name.clone(), event));
            }
        });
    }

    fn bound_publisher(&self) -> Publisher {
        let store = match self.registered {
            Some(generation) => self.store.at(generation),
            None => self.store.clone(),
        };
        Publisher::new(store, self.layout.clone())
    }

    fn say(&self, name: &str, reason: &Reason) {
        match reason {
            Reason::Healthy
            | Reason::Announcing
            | Reason::Promoting
            | Reason::Passive
            | Reason::Unread
            | Reason::Looking(_) => {
                debug!(service = name, "{reason}");
            }
            Reason::Birth | Reason::Growing(_) | Reason::Shrinking(_) | Reason::Failover(..) => {
                info!(service = name, "{reason}");
            }
            Reason::Confirming(_) => debug!(service = name, "{reason}"),
            Reason::PrimaryTroubled(Health::Suspect | Health::Unknown | Health::Up) => {
                debug!(service = name, "{reason}");
            }
            Reason::PrimaryTroubled(_)
            | Reason::PrimaryUnreachable
            | Reason::StoreAway(_)
            | Reason::NoTopology(_)
            | Reason::BirthWaits(..)
            | Reason::RecordRestored
            | Reason::TooSoon(_)
            | Reason::Deposed(_)
            | Reason::AnnouncementRestored(_) => warn!(service = name, "{reason}"),
            Reason::RecordDamaged => error!(service = name, "{reason}"),
            Reason::NobodyEligible(_) => {
                let now = self.now();
                let verdicts =
                    self.services.get(name).map(|s| s.group.view().candidates(now)).unwrap_or_default();
                error!(service = name, "{reason}: {}", words(&verdicts));
            }
        }
    }

    /// What changes of a znode or a server are worth a line.
    fn tell(&mut self, name: &str, event: &Event) {
        let Some(service) = self.services.get_mut(name) else { return };
        match event {
            Event::State(failover::Stored::Damaged(why), version) => {
                warn!(
                    service = name,
                    version, "the state znode holds {why}; the last good record stays in force"
                );
                self.metrics.damaged.get_or_create(&OfService { service: name.to_owned() }).inc();
            }
            Event::Announced(failover::view::Announced::Broken(why), version) => {
                warn!(
                    service = name,
                    version, "{} holds no topology: {why}; the last good one stays in force", service.path
                );
                self.metrics.damaged.get_or_create(&OfService { service: name.to_owned() }).inc();
            }
            Event::Seen(addr, ..) => _ = service.words.remove(addr),
            Event::Ordered(addr, outcome) => tell_outcome(name, addr, outcome),
            Event::Reign(_)
            | Event::Store(_)
            | Event::Peer(_)
            | Event::State(..)
            | Event::Announced(..)
            | Event::Opened(_)
            | Event::Closed(_)
            | Event::ConnectionRefused(_)
            | Event::Troubled(..)
            | Event::Published(..)
            | Event::Stalled
            | Event::Tick => {}
        }
    }

    fn completed(&self, name: &str, timeline: &Timeline) {
        let Some(service) = self.services.get(name) else { return };
        let short = timeline.reason.split([':', ';']).next().unwrap_or_default();
        self.metrics.completed(name, short, timeline);
        let millis = |took: Duration| (took.as_secs_f64() * 1e5).round() / 1e2;
        let phases: serde_json::Map<String, Value> = phases(timeline)
            .into_iter()
            .map(|(phase, took)| (format!("{phase}_ms"), json!(millis(took))))
            .collect();
        info!(
            service = name,
            epoch = timeline.epoch,
            phases = %json!(phases),
            "failover from {} to {} is complete",
            timeline.from,
            timeline.to
        );
        let verdict = |(addr, why): &(Endpoint, Option<failover::Disqualified>)| json!({"addr": addr, "eligible": why.is_none(), "why": why.map(|why| why.to_string())});
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let record = json!({
            "epoch": timeline.epoch,
            "when_ms": since.as_millis() as u64,
            "what": "failover",
            "why": timeline.reason,
            "from": timeline.from,
            "to": timeline.to,
            "leader": self.me.name,
            "candidates": timeline.candidates.iter().map(verdict).collect::<Vec<_>>(),
            "phases": phases,
            "lost_bytes_seen": timeline.gap_bytes,
        });
        let (publisher, path) = (self.bound_publisher(), service.path.clone());
        tokio::spawn(async move { publisher.remember(&path, record).await });
    }

    // -- the pair and the lead -----------------------------------------------------------------------------------

    fn pair_event(&mut self, event: PairEvent) {
        match event {
            PairEvent::StateChanged { .. } => {} // told by the pair itself
            PairEvent::PeerAlive => info!("the peer monitor is heard"),
            PairEvent::PeerExpired => warn!("the peer monitor is silent for two heartbeats"),
            PairEvent::Refused(refusal) => debug!("Binary Star: {refusal}; the lead in ZooKeeper settles it"),
            PairEvent::BadHeartbeat(why, total) => {
                if total.is_power_of_two() {
                    warn!(total, "a heartbeat was dropped: {why}");
                }
                self.bad_heartbeats = total;
            }
            PairEvent::BadRequest(total) => debug!(total, "a request at the voter was dropped"),
            PairEvent::Beat { .. } | PairEvent::Request { .. } => {}
            PairEvent::Ended(None) => debug!("Binary Star ended"),
            PairEvent::Ended(Some(why)) => {
                error!("Binary Star ended: {why}; this monitor is deaf to its peer")
            }
        }
        self.services.keys().cloned().collect::<Vec<_>>().iter().for_each(|name| self.pass_opinion(name));
    }

    fn peer(&self) -> Peer {
        let Some(pair) = &self.pair else { return Peer::None };
        let peer = pair.peer();
        match (peer.alive, peer.state) {
            (true, Some(PairState::Active)) => Peer::Active,
            (true, _) => Peer::NotActive,
            // Not heard yet: whoever is there has two heartbeats to say so.
            (false, _) if peer.heard.is_none() && self.now() < 2 * self.heartbeat() => Peer::Active,
            (false, _) => Peer::Expired,
        }
    }

    fn peer_alive(&self) -> bool {
        self.pair.as_ref().is_some_and(|pair| pair.peer().alive)
    }

    fn tend_lead(&mut self, now: Time) {
        let active = self.pair.as_ref().is_none_or(|pair| pair.state() == PairState::Active);
        self.lead.pair(self.peer(), active);
        self.follow_holder();
        if let Bid::Take(version) = self.lead.bid(now) {
            self.lead.trying(now);
            let (publisher, me, inputs) =
                (self.bound_publisher(), self.me.clone(), self.around.inputs.clone());
            tokio::spawn(async move {
                let result = publisher.take_lead(&me, version).await;
                let _ = inputs.send(Input::LeadTaken(result));
            });
        }
        self.settle_pair(active);
        let reign = self.lead.reign();
        if reign != self.reign {
            self.reign = reign;
            self.leads_since = reign.map(|_| now);
            match reign {
                Some(version) => info!(version, "this monitor leads"),
                None => warn!("this monitor does not lead any more"),
            }
            self.all_groups(&Event::Reign(reign));
        }
    }

    /// The lead in ZooKeeper decides who is ACTIVE; no process aborts over two of a kind.
    fn settle_pair(&self, active: bool) {
        let Some(pair) = &self.pair else { return };
        if self.lead.reign().is_some() && !active {
            pair.vote(binary_star::Lead::Won);
        } else if active
            && (self.lead.held_by_other() || self.registered.is_none())
            && self.lead.reign().is_none()
        {
            pair.vote(binary_star::Lead::Lost);
        }
    }

    fn follow_holder(&mut self) {
        let holder = self.lead.holder().map(str::to_owned);
        if holder.as_deref() == self.holder.as_ref().map(|(name, _)| name.as_str()) {
            return;
        }
        if let Some((_, task)) = self.holder.take() {
            task.abort();
        }
        let Some(name) = holder else { return };
        info!("the monitor `{name}` leads");
        let Ok(path) = self.layout.monitor(&name) else { return };
        let of = name.clone();
        let wrap = move |beat| Input::Beat(of.clone(), beat);
        let task = forward(self.store.follow(&path), self.around.inputs.clone(), wrap, |seen| match seen {
            Seen::NotYet => None,
            Seen::Absent => Some(None),
            Seen::There(found) => {
                let record: Option<MonitorRecord> = serde_json::from_slice(&found.data).ok();
                Some(record.map(|record| (record.instance, record.beat)))
            }
        });
        self.holder = Some((name, task));
    }

    fn lead_taken(&mut self, result: Result<i32, PublishError>) {
        match result {
            Ok(version) => self.lead.record(Some((self.me.clone(), version))),
            Err(error) => {
                debug!(%error, "the lead was not taken");
                let now = self.now();
                self.lead.failed(now);
                let (store, leader, inputs) =
                    (self.store.clone(), self.layout.leader(), self.around.inputs.clone());
                tokio::spawn(async move {
                    if let Ok(found) = store.get(&leader).await
                        && let Some(record) = leader_event(&found.map_or(Seen::Absent, Seen::There))
                    {
                        let _ = inputs.send(Input::Leader(record));
                    }
                });
            }
        }
    }

    fn beat(&mut self) {
        self.metrics.active.set(i64::from(self.reign.is_some()));
        if self.reign.is_none() {
            return;
        }
        self.record.beat += 1;
        let (publisher, name, record) = (self.bound_publisher(), self.me.name.clone(), self.record.clone());
        tokio::spawn(async move { publisher.beat(&name, &record).await });
    }

    // -- ZooKeeper -----------------------------------------------------------------------------------------------

    fn name_wait(&self) -> Duration {
        self.around.config.zookeeper.session_timeout + Duration::from_secs(2)
    }

    fn session_changed(&mut self, session: Session) {
        let before = self.session.replace(session);
        match session.phase {
            SessionPhase::Connected if before.is_none_or(|b| b.phase != SessionPhase::Connected) => {
                info!(session = session.generation, "ZooKeeper answers");
            }
            SessionPhase::Disconnected => {
                warn!(
                    "ZooKeeper does not answer; traffic goes on as published, and no failover is possible meanwhile"
                );
            }
            SessionPhase::Expired => warn!("the ZooKeeper session is over; starting anew"),
            SessionPhase::Connected
            | SessionPhase::Connecting
            | SessionPhase::Closing
            | SessionPhase::Closed => {}
        }
        let answers = session.phase == SessionPhase::Connected;
        self.metrics.zookeeper_connected.set(i64::from(answers));
        if before.is_none_or(|before| (before.phase == SessionPhase::Connected) != answers) {
            self.all_groups(&Event::Store(answers));
        }
        if !session.phase.is_alive()
            || self.registered.is_some_and(|generation| generation != session.generation)
        {
            self.registered = None;
            self.lead.session(false);
        }
        if session.phase == SessionPhase::Connected && self.registered != Some(session.generation) {
            self.register(session.generation);
        }
    }

    fn register(&self, generation: u64) {
        let publisher = Publisher::new(self.store.at(generation), self.layout.clone());
        let (name, record, inputs) = (self.me.name.clone(), self.record.clone(), self.around.inputs.clone());
        tokio::spawn(async move {
            loop {
                let input = match publisher.register(&name, &record).await {
                    Ok(()) => Input::Registered(generation),
                    // Our own predecessor of an expired session goes by itself; it is waited for like any other.
                    Err(NameError::Taken(by)) => Input::NameTaken(by),
                    Err(NameError::Store(PublishError::SessionOver { .. })) => return,
                    Err(NameError::Store(error)) => {
                        debug!(%error, "not registered yet");
                        sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                };
                let done = matches!(input, Input::Registered(_));
                if inputs.send(input).is_err() || done {
                    return;
                }
                sleep(Duration::from_millis(100)).await;
            }
        });
    }

    fn now_registered(&mut self, generation: u64) {
        if self.session.is_none_or(|session| session.generation != generation || !session.phase.is_alive()) {
            return;
        }
        self.name_taken = None;
        self.registered = Some(generation);
        self.lead.session(true);
        let (store, leader, inputs) =
            (self.store.at(generation), self.layout.leader(), self.around.inputs.clone());
        tokio::spawn(async move {
            loop {
                match store.get(&leader).await {
                    Ok(found) => {
                        let seen = found.map_or(Seen::Absent, Seen::There);
                        if let Some(record) = leader_event(&seen) {
                            let _ = inputs.send(Input::Leader(record));
                        }
                        return;
                    }
                    Err(topology::zookeeper::ReadError::SessionOver { .. }) => return,
                    Err(_) => sleep(Duration::from_millis(100)).await,
                }
            }
        });
        self.services.values_mut().for_each(|service| service.opinion = None);
    }

    // -- opinions (R10) ------------------------------------------------------------------------------------------

    fn monitors(&mut self, names: &[String]) {
        let others: Vec<String> = names.iter().filter(|name| **name != self.me.name).cloned().collect();
        let services: Vec<String> = self.services.keys().cloned().collect();
        self.views.retain(|(monitor, _), task| {
            let keep = others.contains(monitor);
            if !keep {
                task.abort();
            }
            keep
        });
        self.opinions.retain(|(monitor, _), _| others.contains(monitor));
        for monitor in &others {
            services.iter().for_each(|service| self.follow_view(monitor, service));
        }
        services.iter().for_each(|service| self.pass_opinion(service));
    }

    fn follow_view(&mut self, monitor: &str, service: &str) {
        let key = (monitor.to_owned(), service.to_owned());
        let Ok(path) = self.layout.view(monitor, service) else { return };
        if self.views.contains_key(&key) {
            return;
        }
        let (of, about) = key.clone();
        let wrap = move |opinion| Input::Opinion(of.clone(), about.clone(), opinion);
        let task = forward(self.store.follow(&path), self.around.inputs.clone(), wrap, |seen| match seen {
            Seen::NotYet => None,
            Seen::Absent => Some(None),
            Seen::There(found) => Some(serde_json::from_slice(&found.data).ok()),
        });
        self.views.insert(key, task);
    }

    /// The opinions of the other monitors count while the peer's heartbeats come.
    fn pass_opinion(&mut self, service: &str) {
        let alive = self.peer_alive();
        let said: Vec<&BTreeSet<Endpoint>> = self
            .opinions
            .iter()
            .filter(|((_, about), _)| about == service)
            .filter_map(|(_, opinion)| opinion.as_ref())
            .collect();
        // What every one of them cannot reach.
        let common = said.split_first().filter(|_| alive).map(|(first, rest)| {
            first.iter().filter(|addr| rest.iter().all(|other| other.contains(*addr))).cloned().collect()
        });
        if self.services.get(service).is_some_and(|s| s.group.view().peer != common) {
            self.group(service, Event::Peer(common));
        }
    }

    /// Writes what this monitor cannot reach, when that changed.
    fn write_opinion(&mut self, name: &str) {
        let now = self.now();
        let (Some(generation), Some(service)) = (self.registered, self.services.get_mut(name)) else {
            return;
        };
        let unreachable: Vec<Endpoint> = service.group.view().unreachable(now).into_iter().collect();
        if service.writes_opinion || service.opinion.as_ref() == Some(&unreachable) {
            return;
        }
        let value = json!(unreachable);
        (service.opinion, service.writes_opinion) = (Some(unreachable), true);
        let publisher = Publisher::new(self.store.at(generation), self.layout.clone());
        let (me, name, inputs) = (self.me.name.clone(), name.to_owned(), self.around.inputs.clone());
        tokio::spawn(async move {
            let written = publisher.opinion(&me, &name, &value).await;
            if let Err(error) = &written {
                debug!(service = name, %error, "the opinion was not written");
                // Not at once: ZooKeeper is away, or the session is over.
                sleep(Duration::from_millis(100)).await;
            }
            let _ = inputs.send(Input::OpinionWritten(name, written.is_ok()));
        });
    }

    // -- what is shown -------------------------------------------------------------------------------------------

    fn answer(&self, question: &Question) -> Value {
        match question {
            Question::Status => self.status(),
            Question::Readiness => json!(self.unready()),
            Question::Metrics => {
                self.measure();
                Value::String(self.metrics.text())
            }
        }
    }

    fn status(&self) -> Value {
        let now = self.now();
        let state = self.pair.as_ref().map_or("ALONE", |pair| word(pair.state()));
        let mut monitors = vec![json!({
            "name": self.me.name, "role": self.around.config.role_word(), "state": state,
            "active": self.reign.is_some(), "version": env!("CARGO_PKG_VERSION"),
            "zookeeper": self.session.is_some_and(|s| s.phase == SessionPhase::Connected),
        })];
        if let Some(pair) = &self.pair {
            let peer = pair.peer();
            let state = peer.state.filter(|_| peer.alive).map_or("SILENT", word);
            let leads = self.lead.holder();
            monitors.push(json!({
                "name": leads, "role": "peer", "state": state, "active": leads.is_some(), "version": null,
            }));
        }
        let services: Vec<Value> =
            self.services.values().map(|service| status::service(service, now)).collect();
        json!({"monitors": monitors, "services": services})
    }

    fn unready(&self) -> Vec<String> {
        let now = self.now();
        let mut reasons = Vec::new();
        if self.session.is_none_or(|session| session.phase != SessionPhase::Connected) {
            reasons.push("ZooKeeper does not answer".to_owned());
        } else if self.registered.is_none() {
            reasons.push("this monitor's name is not registered yet".to_owned());
        }
        if self.lead.deleted() {
            reasons
                .push(format!("{} was deleted; stop both monitors, then start them", self.layout.leader()));
        }
        let state = self.pair.as_ref().map(Handle::state);
        match state {
            Some(state @ (PairState::Primary | PairState::Backup)) => {
                reasons.push(format!("neither active nor passive yet ({})", word(state)));
            }
            Some(PairState::Active) | None if self.reign.is_none() && !self.lead.held_by_other() => {
                reasons.push("the lead is not taken yet".to_owned());
            }
            Some(PairState::Active | PairState::Passive) | None => {}
        }
        reasons.extend(self.services.values().filter_map(|service| status::unready(service, now)));
        reasons
    }

    /// Gauges are read off when somebody asks.
    fn measure(&self) {
        let now = self.now();
        let metrics = &self.metrics;
        metrics.peer_up.set(i64::from(self.peer_alive()));
        metrics.bad_heartbeats.set(self.bad_heartbeats);
        for (name, service) in &self.services {
            let view = service.group.view();
            let of = OfService { service: name.clone() };
            let (epoch, in_sync) = view.state().map_or((0, 0), |s| (s.epoch, s.in_sync.len()));
            metrics.epoch.get_or_create(&of).set(i64::try_from(epoch).unwrap_or(i64::MAX));
            metrics.in_sync.get_or_create(&of).set(i64::try_from(in_sync).unwrap_or(i64::MAX));
            for addr in view.backends.keys() {
                let of = OfBackend { service: name.clone(), backend: addr.to_string() };
                let up = matches!(view.health(addr, now), Health::Up | Health::Suspect);
                metrics.backend_up.get_or_create(&of).set(i64::from(up));
                match status::lag(view, addr) {
                    Some(lag) => {
                        metrics.lag.get_or_create(&of).set(i64::try_from(lag).unwrap_or(i64::MAX));
                    }
                    None => _ = metrics.lag.remove(&of),
                }
            }
        }
    }

    /// The voter answers with what `/services` shows.
    fn show(&self) {
        if let Some(pair) = &self.pair
            && self.reign.is_some()
        {
            pair.set_reply(self.status().to_string().into_bytes());
        }
    }

    // -- the end -------------------------------------------------------------------------------------------------

    /// SIGTERM: gives up the lead, so that the peer takes it at once, and ends the session.
    async fn stop(mut self) -> End {
        info!("stopping");
        self.lead.leave();
        let reign = self.reign.take();
        self.all_groups(&Event::Reign(None));
        if let Some(reign) = reign
            && let Err(error) = self.bound_publisher().give_up_lead(reign).await
        {
            warn!(%error, "the lead could not be given up; the peer takes it after its limits");
        }
        self.store.close().await;
        End::Stopped
    }
}

fn word(state: PairState) -> &'static str {
    match state {
        PairState::Primary => "PRIMARY",
        PairState::Backup => "BACKUP",
        PairState::Active => "ACTIVE",
        PairState::Passive => "PASSIVE",
    }
}

fn words(verdicts: &[(Endpoint, Option<failover::Disqualified>)]) -> String {
    let one = |(addr, why): &(Endpoint, Option<failover::Disqualified>)| match why {
        Some(why) => format!("{addr} ({why})"),
        None => format!("{addr} (eligible)"),
    };
    verdicts.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn leader_event(seen: &Seen<Versioned>) -> Option<Option<(LeaderRecord, i32)>> {
    match seen {
        Seen::NotYet => None,
        Seen::Absent => Some(None),
        Seen::There(found) => {
            // What is no record is held by nobody; taking it is conditional on its version.
            let nobody = LeaderRecord { name: String::new(), instance: String::new() };
            let record = serde_json::from_slice(&found.data).unwrap_or(nobody);
            Some(Some((record, found.version)))
        }
    }
}

fn acted(name: &str, order: &Order) {
    let primary = &order.record.primary.addr;
    match &order.deed {
        failover::Deed::Attach => info!(service = name, "set {} as replica of {primary}", order.backend),
        failover::Deed::Promote { .. } => {
            info!(service = name, epoch = order.record.epoch, "promoted {primary}")
        }
        failover::Deed::Stamp => debug!(service = name, epoch = order.record.epoch, "stamped {primary}"),
        failover::Deed::Protect => info!(service = name, "{} is read-only again", order.backend),
    }
}

fn tell_outcome(name: &str, addr: &Endpoint, outcome: &Outcome) {
    match outcome {
        Outcome::Done(_) => {}
        Outcome::Deposed(fence) => {
            warn!(
                service = name,
                "{addr} carries epoch {fence}, newer than this monitor's record; looking again"
            );
        }
        Outcome::Refused(failover::Refused::HoldsData) => {
            debug!(service = name, "{addr}: {}", failover::Refused::HoldsData);
        }
        Outcome::Refused(why) => info!(service = name, "{addr} was left alone: {why}"),
        Outcome::Raced => debug!(service = name, "{addr}: somebody else acted; looking again"),
        Outcome::Lost => debug!(service = name, "{addr}: the connection was lost; looking again"),
        Outcome::Rejected(why) => warn!(service = name, "{addr} refused a command: {why}"),
        Outcome::NoCredential(why) => {
            warn!(
                service = name,
                "{addr} does not let us make the replication credential ({why}); restart_guard is off"
            );
        }
    }
}

/// The line that people look for: who is primary, when that changes.
fn tell_primary(name: &str, service: &mut Service) {
    let Some(state) = service.state().filter(|state| state.phase == Phase::Serving) else { return };
    let now = (state.primary.addr.clone(), state.promoted);
    if service.told.as_ref() != Some(&now) {
        info!(service = name, epoch = state.epoch, "Primary Redis is {}", now.0);
        service.told = Some(now);
    }
}
