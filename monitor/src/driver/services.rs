//! What the driver does for each service: events to its group, the group's actions to the world.

use std::sync::Arc;
use std::time::Duration;

use failover::mass::Standing;
use failover::{Action, Event, Outcome, PublishOutcome, Reason, Request, Time};
use tokio::sync::oneshot;
use tokio::time::sleep;
use topology::zookeeper::{PublishError, Queue, Seen, SessionPhase, Versioned};
use topology::{PausedRecord, ZnodePath};
use tracing::{info, warn};

use super::due::Due;
use super::records::of_pause;
use super::tell::{acted, not_published, tell_brown_out, tell_record, tell_words};
use super::{About, Driver, Input};
use crate::asking::{Answer, Paused};
use crate::clock::Clock;
use crate::publisher::Publisher;
use crate::service::{Service, ServiceId, path_event, paused_read, state_event};

/// Between two attempts to read what must be read.
const READ_AGAIN: Duration = Duration::from_millis(100);

impl Driver {
    pub(super) fn add_service(&mut self, path: ZnodePath, discovered: bool) {
        let name = path.name().to_owned();
        if let Some(known) = self.services.get(&name) {
            if known.path != path && self.ignored.insert(path.clone()) {
                warn!("service {path} is ignored: the name `{name}` belongs to {}; rename one", known.path);
                self.metrics.ignored_services.inc();
            }
            return;
        }
        self.ignored.remove(&path);
        self.incarnations += 1;
        let limits = self.around.config.limits();
        let mut service = Service::new(path.clone(), self.incarnations, limits, &self.me.name, discovered);
        let follow = |znode: &str| self.store.follow(znode);
        let (state, paused) = (follow(&self.layout.state(&path)), follow(&self.layout.paused(&path)));
        service.follow(state, follow(path.as_str()), paused, &self.around.inputs);
        self.services.insert(service);
        info!(service = name, "watching {path}");
        let answers = self.session.is_some_and(|session| session.phase == SessionPhase::Connected);
        self.group(&name, Event::Store(answers));
        self.group(&name, Event::Reign(self.reign));
        self.pass_opinion(&name);
        self.group(&name, Event::Brake(self.braked.is_some()));
        self.others.clone().iter().for_each(|monitor| self.follow_view(monitor, &name));
        self.vouch(&name);
    }

    pub(super) fn remove_service(&mut self, name: &str) {
        let Some(service) = self.services.remove(name) else { return };
        let asked: Vec<u64> =
            self.requests.iter().filter(|(_, (of, ..))| of == name).map(|(number, _)| *number).collect();
        for (_, _, answer) in asked.iter().filter_map(|number| self.requests.remove(number)) {
            let _ = answer.send(None); // whoever asked may be gone
        }
        self.withdraw_opinion(&service);
        self.change_note(service.noted.1);
        self.metrics.forget(name);
        self.hooks.forget(name);
        self.board.forget(name);
        self.losses.changed(service.standing, Standing::Unknown, self.now());
        let _ = self.due.put(&service.id.name, service.due, None);
        self.opinions.retain(|(of, _), _| **of != *name);
        self.views.retain(|(_, of), task| {
            let keep = of != name;
            if !keep {
                task.abort();
            }
            keep
        });
    }

    pub(super) fn discovered(&mut self, names: &[String]) {
        let Some(parent) = self.around.config.zookeeper.discover.clone() else { return };
        self.found = Some(names.to_vec());
        let gone: Vec<String> = self
            .services
            .iter()
            .filter(|service| service.discovered && !names.iter().any(|name| **name == *service.id.name))
            .map(|service| service.id.name.to_string())
            .collect();
        for name in gone {
            info!(service = name, "gone from {parent}; not watched any more");
            self.remove_service(&name);
        }
        self.ignored.retain(|path| names.iter().any(|name| name == path.name()));
        for name in names {
            match parent.child(name) {
                Ok(path) => self.add_service(path, true),
                Err(error) => {
                    let now = self.now();
                    if self.quiet.is_due(format!("not a service: {name}"), now) {
                        warn!("`{name}` below {parent} is ignored: {error}");
                    }
                }
            }
        }
        self.board.listed();
    }

    /// Takes in what happened to a service, unless that one is gone.
    pub(super) fn about(&mut self, id: &ServiceId, about: About) {
        let (now, speaks) = (self.now(), self.has_opinion());
        let name: &str = &id.name;
        let limit = self.late_after();
        let Some(service) = self.services.this_one(id) else { return };
        let late = service.late_probes(now, limit);
        if !late.is_empty() {
            self.unheard(name, late);
        }
        let Some(service) = self.services.this_one(id) else { return };
        match about {
            About::Event(event) if service.is_at_rest(&event, speaks, now) => {
                if let Some(actions) = rests(service, &mut self.due, event, self.around.clock) {
                    self.follow_up(name, actions);
                }
            }
            About::Event(event) => {
                self.tell(name, &event);
                self.group(name, event);
            }
            About::Words(addr, words) if service.backends.contains_key(&addr) => {
                if service.words.get(&addr) != Some(&words) {
                    tell_words(service, &addr, &words, now);
                }
                service.words.insert(addr, words);
            }
            About::Words(..) => {} // of a server that left
            About::BrownOut(addr, brown_out) => tell_brown_out(service, &addr, brown_out),
            About::Acted(order) => acted(service, &order, now),
            About::NotPublished(epoch, error) => not_published(service, epoch, &error, now),
            // One that is gone thinks nothing any more.
            About::Opinion(monitor, _) if !self.others.contains(&monitor) => {}
            About::Opinion(monitor, unreachable) => {
                self.opinions.insert((id.name.clone(), monitor), unreachable);
                self.pass_opinion(name);
            }
            About::OpinionWritten(written) => {
                service.writes_opinion = false;
                service.opinion = service.opinion.take().filter(|_| written);
                self.write_opinion(name);
            }
            About::Vouched(call, read) => self.vouched(name, call, read),
            About::Paused(paused) => self.paused(name, paused),
            About::PausedAgain(paused) => self.paused_again(name, paused),
        }
    }

    /// Time has passed for a service that may have waited for that.
    pub(super) fn time_passed(&mut self, name: &Arc<str>, now: Time) {
        let speaks = self.has_opinion();
        self.notice_late_probes(name);
        let Some(service) = self.services.get_mut(name) else { return };
        service.due = None;
        match service.group.poll_timeout() {
            Some(at) if at > now => service.due = self.due.put(name, None, Some(at)),
            Some(_) | None if service.is_at_rest(&Event::Tick, speaks, now) => {
                if let Some(actions) = rests(service, &mut self.due, Event::Tick, self.around.clock) {
                    self.follow_up(name, actions);
                }
            }
            Some(_) | None => self.group(name, Event::Tick),
        }
    }

    pub(super) fn group(&mut self, name: &str, event: Event) {
        self.notice_late_probes(name);
        self.hand(name, event);
    }

    /// The same, whatever the probes say.
    pub(super) fn hand(&mut self, name: &str, event: Event) {
        let clock = self.around.clock;
        let Some(service) = self.services.get_mut(name) else { return };
        let actions = service.handle(event, clock);
        service.due = self.due.put(&service.id.name, service.due, service.group.poll_timeout());
        self.follow_up(name, actions);
    }

    /// What comes of an event that a group has taken in.
    fn follow_up(&mut self, name: &str, actions: Vec<Action>) {
        self.tend_losses(name);
        let Some(service) = self.services.get_mut(name) else { return };
        service.touched = true;
        for addr in service.tend_probes(&self.around, &mut self.metrics) {
            self.metrics.forget_backend(name, &addr);
        }
        if !actions.is_empty() {
            self.display.touch();
        }
        for action in actions {
            self.perform(name, action);
        }
        if let Some(service) = self.services.get_mut(name) {
            tell_record(name, service);
        }
        self.note(name);
        self.tell_board_of(name);
        self.write_opinion(name);
    }

    pub(super) fn perform(&mut self, name: &str, action: Action) {
        let Some(service) = self.services.get(name) else { return };
        match action {
            Action::Publish(publication) => {
                let (publisher, path) = (self.bound_publisher(), service.path.clone());
                self.later(name, async move {
                    match publisher.publish(&path, &publication).await {
                        Ok(outcome) => vec![About::Event(Event::Published(publication.number, outcome))],
                        Err(error) => {
                            // Not at once: ZooKeeper is away, or somebody else is faster.
                            sleep(Duration::from_millis(10)).await;
                            let failed = Event::Published(publication.number, PublishOutcome::Failed);
                            vec![About::NotPublished(publication.next.epoch, error), About::Event(failed)]
                        }
                    }
                });
            }
            Action::Order(order) => match service.backends.get(&order.backend) {
                Some(backend) => backend.order(order),
                None => {
                    let lost = Event::Ordered(order.backend, self.now(), Outcome::Lost);
                    self.later(name, async move { vec![About::Event(lost)] });
                }
            },
            Action::Look(addr) => {
                if self.reign.is_some() && precedes_orders(service.because()) {
                    let primary = service.group.view().state().map(|state| &state.primary.addr);
                    let others = service.backends.iter().filter(|(addr, _)| Some(*addr) != primary);
                    others.for_each(|(_, backend)| backend.prepare());
                }
                if let Some(backend) = service.backends.get(&addr) {
                    backend.look();
                }
            }
            Action::Reread => {
                let (store, path) = (self.store.queued(Queue::Usual), service.path.clone());
                let (state, paused) = (self.layout.state(&path), self.layout.paused(&path));
                self.later(name, async move {
                    loop {
                        let read =
                            tokio::join!(store.get(&state), store.get(path.as_str()), store.get(&paused));
                        if let (Ok(state), Ok(path), Ok(paused)) = read {
                            let seen = |found: Option<Versioned>| found.map_or(Seen::Absent, Seen::There);
                            let paused = paused_read(&seen(paused)).map(About::PausedAgain);
                            let events = [state_event(&seen(state)), path_event(&seen(path))];
                            let events = events.into_iter().flatten().map(About::Event);
                            return paused.into_iter().chain(events).collect();
                        }
                        sleep(READ_AGAIN).await;
                    }
                });
            }
            Action::Say(reason) => self.say(name, &reason),
            Action::Completed(timeline) => self.completed(name, &timeline),
            Action::Edited(to, outcome) => self.edited(name, &to, outcome.as_ref()),
            Action::Answer(number, outcome) => {
                let asked = self.requests.remove(&number);
                self.answered(name, asked.as_ref().map(|(_, request, _)| request), &outcome);
                if let Some((_, _, answer)) = asked {
                    let _ = answer.send(Some(outcome)); // whoever asked may be gone
                }
            }
        }
    }

    /// Hands what an operator asks for to the service of that name.
    pub(super) fn request(&mut self, name: &str, request: Request, answer: oneshot::Sender<Answer>) {
        if !self.services.contains(name) {
            let _ = answer.send(None);
            return;
        }
        self.asked += 1;
        self.requests.insert(self.asked, (name.to_owned(), request.clone(), answer));
        self.group(name, Event::Asked(self.asked, request));
    }

    /// Whether the service is paused was read, or just written.
    fn paused(&mut self, name: &str, paused: Option<PausedRecord>) {
        let Some(service) = self.services.get_mut(name) else { return };
        match (&service.paused, &paused) {
            (None, Some(record)) => warn!(
                service = name,
                "paused{}: no failover and no re-pointing before `monitor resume`",
                record.by.as_deref().map(|by| format!(" by {by}")).unwrap_or_default()
            ),
            (Some(_), None) => info!(service = name, "resumed"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        let is_paused = paused.is_some();
        service.paused = paused;
        self.group(name, Event::Paused(is_paused));
    }

    /// Whether the service is paused was read once more. What is followed is newer, or will be in a moment: where the two
    /// differ, one of them was late.
    fn paused_again(&mut self, name: &str, read: Option<PausedRecord>) {
        let Some(service) = self.services.get(name) else { return };
        if service.paused.is_some() == read.is_some() {
            return self.group(name, Event::Paused(read.is_some()));
        }
        let (store, znode) = (self.store.queued(Queue::Usual), self.layout.paused(&service.path));
        self.later(name, async move {
            loop {
                sleep(READ_AGAIN).await;
                if let Ok(found) = store.get(&znode).await {
                    let read = paused_read(&found.map_or(Seen::Absent, Seen::There));
                    return read.map(About::PausedAgain).into_iter().collect();
                }
            }
        });
    }

    /// An operator pauses the service of that name, or resumes it. Done once it stands in ZooKeeper.
    pub(super) fn pause(
        &mut self,
        name: &str,
        wanted: Option<PausedRecord>,
        answer: oneshot::Sender<Paused>,
    ) {
        let Some(service) = self.services.get(name).filter(|_| self.reign.is_some()) else {
            let known = self.services.contains(name);
            let _ = answer.send(if known { Paused::NotLeading } else { Paused::NoService });
            return;
        };
        let (publisher, path) = (self.bound_publisher(), service.path.clone());
        let by = wanted.as_ref().and_then(|record| record.by.as_deref());
        let mut record = of_pause(by, wanted.is_some(), &self.me.name);
        record["epoch"] = service.group.view().state().map_or(0, |state| state.epoch).into();
        self.later(name, async move {
            match publisher.pause(&path, wanted.as_ref()).await {
                Ok(changed) => {
                    let _ = answer.send(Paused::Done { changed }); // whoever asked may be gone
                    if changed {
                        tokio::spawn(async move { publisher.remember(&path, record).await });
                    }
                    // What was so already stands there as somebody else wrote it.
                    changed.then_some(About::Paused(wanted)).into_iter().collect()
                }
                Err(PublishError::Unknown(why)) => {
                    let _ = answer.send(Paused::Unknown(why));
                    Vec::new()
                }
                Err(error) => {
                    let _ = answer.send(Paused::Failed(error.to_string()));
                    Vec::new()
                }
            }
        });
    }

    /// Runs something beside the loop and takes in what comes of it when it ends.
    pub(super) fn later(&mut self, name: &str, work: impl Future<Output = Vec<About>> + Send + 'static) {
        let Some(service) = self.services.get_mut(name) else { return };
        let (inputs, id) = (self.around.inputs.clone(), service.id.clone());
        service.spawn(async move {
            for about in work.await {
                // The driver ends after its tasks.
                let _ = inputs.send(Input::Service(id.clone(), about));
            }
        });
    }

    pub(super) fn bound_publisher(&self) -> Publisher {
        let store = match self.registered {
            Some(generation) => self.store.at(generation),
            None => self.store.clone(),
        };
        Publisher::new(store, self.layout.clone())
    }
}

/// Whether a replica may be promoted in a moment.
fn precedes_orders(reason: &Reason) -> bool {
    matches!(reason, Reason::PrimaryTroubled(_) | Reason::PrimaryUnreachable | Reason::Confirming(_))
}

/// Hands in an event of a service at rest, of which nearly always nothing comes: of thousands of servers each says ten times a
/// second that nothing has happened.
fn rests(service: &mut Service, due: &mut Due, event: Event, clock: Clock) -> Option<Vec<Action>> {
    let because = service.because().clone();
    let actions = service.handle(event, clock);
    service.due = due.put(&service.id.name, service.due, service.group.poll_timeout());
    let members_differ = || !service.group.members().eq(service.backends.keys());
    (!actions.is_empty() || because != *service.because() || members_differ()).then_some(actions)
}
