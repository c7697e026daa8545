//! Mass failures: how many primaries are lost at once, over all services, and what the groups are told of it
//! (`failover::mass`).

use std::sync::Arc;

use failover::mass::{self, Losses};
use failover::{Event, Time};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::Driver;
use crate::service::Service;

impl Driver {
    /// How the primary of a service stands may have changed. The groups hear of a mass failure when the
    /// loop looks at the time again, before any of them decides alone that its primary was silent for too long.
    pub(super) fn tend_losses(&mut self, name: &str) {
        let now = self.now();
        if let Some(service) = self.services.get_mut(name) {
            tend(service, &mut self.losses, now);
        }
    }

    /// The same of all services, once a heartbeat: one that says nothing is not looked at otherwise. Gives those of which there
    /// may be something to tell.
    pub(super) fn unsettled(&mut self) -> Vec<Arc<str>> {
        let (now, speaks, losses) = (self.now(), self.has_opinion(), &mut self.losses);
        let unsettled = |service: &mut Service| {
            tend(service, losses, now);
            service.take_unsettled(speaks, now).then(|| service.id.name.clone())
        };
        self.services.each().filter_map(unsettled).collect()
    }

    /// Tells the groups when a mass failure begins or ends.
    pub(super) fn tend_brake(&mut self, now: Time) {
        let percent = self.around.config.failover.mass_failure_percent;
        let since = self.losses.judge(self.services.count(), percent, now);
        if since.is_some() == self.braked.is_some() {
            return;
        }
        self.braked = since;
        self.metrics.mass_failure.set(i64::from(since.is_some()));
        self.display.at_once();
        let (lost, of) = (self.losses.lost(), self.losses.known());
        match since {
            Some(_) => warn!(
                "{lost} of {of} primaries were lost within a second, more than mass_failure_percent = {percent}: most \
                 likely this monitor's own network. A failover begins only where a death is certain, or the other monitor \
                 sees it too"
            ),
            None => info!("the mass failure is over: {lost} of {of} primaries are lost"),
        }
        self.all_groups(&Event::Brake(since.is_some()));
    }

    /// For status; null where there is none.
    pub(super) fn mass_failure(&self) -> Value {
        let Some(since) = self.braked else { return Value::Null };
        let ms = u64::try_from(self.now().saturating_sub(since).as_millis()).unwrap_or(u64::MAX);
        json!({"lost": self.losses.lost(), "of": self.losses.known(), "for_ms": ms})
    }
}

fn tend(service: &mut Service, losses: &mut Losses, now: Time) {
    let is = mass::standing(service.group.view(), now);
    let was = std::mem::replace(&mut service.standing, is);
    if was != is {
        losses.changed(was, is, now);
    }
}
