//! The history: a record of every failover, switchover and refusal, with what it was decided from.
//!
//! A record is written when all is over, beside the loop: no failover ever waits for one.

use failover::{Declined, Disqualified, Done, Reason, Request, Timeline, Witness, witnesses};
use serde_json::{Value, json};
use topology::Endpoint;
use tracing::{info, warn};

use super::Driver;
use crate::metrics::phases_ms;

impl Driver {
    /// A failover, a switchover or a cold start is done: a line of the log, a metric, a hook, a record.
    pub(super) fn completed(&mut self, name: &str, timeline: &Timeline) {
        if !self.services.contains(name) {
            return;
        }
        self.display.at_once();
        self.next_show = self.now();
        let short = timeline.reason.split([':', ';']).next().unwrap_or_default();
        self.metrics.completed(name, short, timeline);
        let phases = phases_ms(timeline);
        self.hook_failover(name, timeline, &phases);
        let (what, to) = (kind(&timeline.reason), &timeline.to);
        let from = timeline.from.as_ref().map_or("an unknown primary".to_owned(), ToString::to_string);
        let took = phases.get("announced_ms").and_then(Value::as_f64);
        let since = if what.starts_with("switchover") { "it began" } else { "the loss" };
        let took = took.map_or(String::new(), |ms| format!(", {ms:.1} ms after {since}"));
        let lacked = match (timeline.gap_bytes, &timeline.from) {
            (Some(bytes), Some(_)) => format!("; {to} lacked {bytes} bytes that {from} was seen to have"),
            (_, _) => String::new(),
        };
        let begun = if timeline.begun.is_some() { "" } else { "; another monitor began it" };
        info!(
            service = name,
            epoch = timeline.epoch,
            phases = %json!(phases),
            "{what} from {from} to {to} is complete{took}{lacked}{begun}",
        );
        let record = json!({
            "epoch": timeline.epoch, "when_ms": now_ms(), "what": what, "why": timeline.reason,
            "from": timeline.from, "to": timeline.to, "leader": self.me.name,
            "saw": saw(&timeline.saw), "candidates": verdicts(&timeline.candidates),
            "phases": phases, "lost_bytes_seen": timeline.gap_bytes,
        });
        self.remember(name, record);
    }

    /// What came of an operator's request. A failover is told and remembered as every other.
    pub(super) fn answered(
        &mut self,
        name: &str,
        request: Option<&Request>,
        outcome: &Result<Done, Declined>,
    ) {
        let Some(service) = self.services.get(name) else { return };
        let (what, addr) = match outcome {
            Err(declined) => return self.declined(name, request, declined),
            Ok(Done::FailedOver(_)) => return,
            Ok(Done::Added(addr)) => ("member added", addr),
            Ok(Done::Removed { addr, released }) => {
                if !released {
                    warn!(service = name, "{addr} left the group, and did not answer when it was told so");
                }
                ("member removed", addr)
            }
        };
        info!(service = name, "{what}: {addr}");
        let Some(state) = service.group.view().state() else { return };
        let record = json!({
            "epoch": state.epoch, "when_ms": now_ms(), "what": what, "why": "asked for by an operator",
            "member": addr, "leader": self.me.name,
        });
        self.remember(name, record);
    }

    fn declined(&self, name: &str, request: Option<&Request>, declined: &Declined) {
        let (asked, target) = request.map_or(("request", None), subject);
        warn!(service = name, "{asked} not done, although an operator asked: {declined}");
        // One that was given back is remembered as the promotion that it took; others never came to a decision.
        let given_back = matches!(declined, Declined::GivenBack(_));
        let what = match declined.is_for_safety() {
            true => "refused",
            false => "not done",
        };
        if !given_back && (declined.is_for_safety() || matches!(declined, Declined::TimedOut(..))) {
            self.remember_refusal(name, &format!("{asked} {what}"), &declined.to_string(), target);
        }
    }

    /// A primary that seems to be lost, and no failover: paused, or for longer than a heartbeat.
    pub(super) fn refused(&mut self, name: &str, reason: &Reason) {
        let refuses = matches!(
            reason,
            Reason::NobodyEligible(_)
                | Reason::ColdStartWaits(_)
                | Reason::PrimaryUnreachable
                | Reason::Braked(_)
                | Reason::Paused(Some(_))
        );
        let now = self.now();
        let Some(service) = self.services.get_mut(name).filter(|_| refuses && self.reign.is_some()) else {
            return;
        };
        if service.quiet.is_due(format!("remember {reason}"), now) {
            self.remember_refusal(name, "no failover", &reason.to_string(), None);
        }
    }

    pub(super) fn remember_refusal(&self, name: &str, what: &str, why: &str, target: Option<&Endpoint>) {
        let Some(service) = self.services.get(name) else { return };
        let (view, now) = (service.group.view(), self.now());
        let Some(state) = view.state() else { return };
        let primary = &state.primary.addr;
        let record = json!({
            "epoch": state.epoch, "when_ms": now_ms(), "what": what, "why": why, "refused": true,
            "from": primary, "to": target, "leader": self.me.name,
            "saw": saw(&witnesses(view, primary, now)), "candidates": verdicts(&view.candidates(now)),
        });
        self.remember(name, record);
    }

    fn remember(&self, name: &str, record: Value) {
        let Some(service) = self.services.get(name) else { return };
        let (publisher, path) = (self.bound_publisher(), service.path.clone());
        self.display.decided(name, &record);
        tokio::spawn(async move { publisher.remember(&path, record).await });
    }
}

/// What is remembered of a service that was paused, or resumed.
pub(super) fn of_pause(by: Option<&str>, paused: bool, leader: &str) -> Value {
    let (what, by) = (if paused { "paused" } else { "resumed" }, by.map(|by| format!(" at {by}")));
    let why = format!("asked for by an operator{}", by.unwrap_or_default());
    json!({"when_ms": now_ms(), "what": what, "why": why, "leader": leader})
}

/// What a record's reason makes of it.
fn kind(reason: &str) -> &'static str {
    match reason {
        _ if reason.starts_with("cold start") => "cold start",
        _ if reason.starts_with("switchover given up") => "switchover given back",
        _ if reason.starts_with("switchover") => "switchover",
        _ => "failover",
    }
}

/// What is asked for, and for whom.
fn subject(request: &Request) -> (&'static str, Option<&Endpoint>) {
    match request {
        Request::Add { addr, .. } => ("addition", Some(addr)),
        Request::Remove { addr } => ("removal", Some(addr)),
        Request::Failover { to, .. } => ("failover", to.as_ref()),
        Request::Switchover { to } => ("switchover", to.as_ref()),
    }
}

fn saw(witnesses: &[Witness]) -> Vec<Value> {
    let one = |Witness { who, saw, offset }: &Witness| {
        let mut one = json!({"who": who.to_string(), "saw": saw});
        if let (Some(offset), Some(fields)) = (offset, one.as_object_mut()) {
            fields.insert("offset".to_owned(), json!(offset));
        }
        one
    };
    witnesses.iter().map(one).collect()
}

fn verdicts(candidates: &[(Endpoint, Option<Disqualified>)]) -> Vec<Value> {
    let one = |(addr, why): &(Endpoint, Option<Disqualified>)| json!({"addr": addr, "eligible": why.is_none(), "why": why.map(|why| why.to_string())});
    candidates.iter().map(one).collect()
}

/// Milliseconds since 1970, for people only.
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as u64
}
