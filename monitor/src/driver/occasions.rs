//! What the hooks are told, by the monitor that leads: failovers when they are complete, other roles and deaths once a
//! heartbeat.

use std::sync::Arc;

use failover::{Health, Time, Timeline, View};
use serde_json::{Map, Value, json};
use topology::Endpoint;

use super::Driver;
use crate::hooks::Occasion;

impl Driver {
    /// A failover was completed.
    pub(super) fn hook_failover(&mut self, name: &str, timeline: &Timeline, phases: &Map<String, Value>) {
        let facts = json!({
            "from": timeline.from, "to": timeline.to, "epoch": timeline.epoch, "why": timeline.reason,
            "phases": phases, "lost_bytes_seen": timeline.gap_bytes,
        });
        self.hook(name, Occasion::Failover, facts);
    }

    pub(super) fn tell_hooks(&mut self, of: &[Arc<str>]) {
        for (name, occasion, facts) in self.hook_news(of) {
            self.hook(&name, occasion, facts);
        }
    }

    /// Compares every server of these services with what was told of it. What is seen for the first time is no news.
    pub(super) fn hook_news(&mut self, of: &[Arc<str>]) -> Vec<(Arc<str>, Occasion, Value)> {
        let (now, leads) = (self.now(), self.reign.is_some());
        let mut news: Vec<(Arc<str>, Occasion, Value)> = Vec::new();
        for name in of {
            let Some(service) = self.services.get_mut(name) else { continue };
            let view = service.group.view();
            let epoch = view.state().map(|state| state.epoch);
            for addr in view.backends.keys() {
                let before = service.hooked.get(addr).copied().or_else(|| answered(view, addr));
                let Some((down, role)) = looks(view, addr, before, now) else { continue };
                service.hooked.insert(addr.clone(), (down, role));
                let Some((was_down, was)) = before.filter(|_| leads) else { continue };
                if down && !was_down {
                    let facts = json!({"addr": addr, "role": role, "epoch": epoch});
                    news.push((name.clone(), Occasion::Down, facts));
                }
                if role != was {
                    let facts = json!({"addr": addr, "role": role, "was": was, "epoch": epoch});
                    news.push((name.clone(), Occasion::RoleChange, facts));
                }
            }
        }
        news
    }

    fn hook(&mut self, name: &str, occasion: Occasion, facts: Value) {
        if let Value::Object(facts) = facts {
            self.hooks.tell(name, occasion, facts);
        }
    }
}

/// One that has answered was up then, though it may be gone before the first heartbeat.
fn answered(view: &View, addr: &Endpoint) -> Option<(bool, &'static str)> {
    let seen = view.backends.get(addr)?.seen.as_ref()?;
    Some((false, seen.observation.role.word()))
}

/// Whether a server is down, and its role; the last known ones where nothing is known now.
fn looks(
    view: &View,
    addr: &Endpoint,
    before: Option<(bool, &'static str)>,
    now: Time,
) -> Option<(bool, &'static str)> {
    let role = view.current(addr, now).map(|seen| seen.role.word());
    let down = match view.health(addr, now) {
        Health::Refused(_) | Health::Silent(_) => Some(true),
        Health::Up => Some(false),
        Health::Unknown | Health::Suspect | Health::Troubled(_) => None,
    };
    let (was_down, was) = (before.map(|(down, _)| down), before.map(|(_, role)| role));
    Some((down.or(was_down)?, role.or(was)?))
}
