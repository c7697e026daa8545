//! What pages follow: the status again and again while somebody looks, and each decision.
//!
//! The driver makes the status at most five times a second and after each failover, however many look, and not at all while nobody does. It puts
//! it where the streams ([`crate::events`]) fetch it: one that reads slowly misses some, and holds up nobody.

use std::sync::Arc;
use std::time::Duration;

use failover::Time;
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};

use super::Driver;

/// At least so long between two.
const PACE: Duration = Duration::from_millis(200);
/// At most so long, so that whoever looks knows that it is the present.
const PULSE: Duration = Duration::from_millis(500);
/// A stream that is so many decisions behind misses the older ones; the history has them.
const DECISIONS_MAX: usize = 64;

/// The writing side.
#[derive(Debug)]
pub(super) struct Display {
    feed: Feed,
    shown: Time,
    /// Something changed since.
    changed: bool,
}

/// The reading side.
#[derive(Debug, Clone)]
pub(crate) struct Feed {
    /// The last status; none before the first one.
    pub(crate) status: watch::Sender<Option<Arc<str>>>,
    /// Decision records, each with its service.
    pub(crate) decisions: broadcast::Sender<Arc<Value>>,
}

impl Display {
    pub(super) fn new() -> Self {
        let feed = Feed { status: watch::Sender::new(None), decisions: broadcast::channel(DECISIONS_MAX).0 };
        Self { feed, shown: Time::ZERO, changed: false }
    }

    /// Something that people look for changed.
    pub(super) fn touch(&mut self) {
        self.changed = true;
    }

    /// Something changed that nobody should wait for.
    pub(super) fn at_once(&mut self) {
        (self.shown, self.changed) = (Time::ZERO, true);
    }

    /// Something was decided.
    pub(super) fn decided(&self, service: &str, record: &Value) {
        let mut record = record.clone();
        if let Some(fields) = record.as_object_mut() {
            fields.insert("service".to_owned(), json!(service));
        }
        let _ = self.feed.decisions.send(Arc::new(record)); // nobody looks: nobody has to be told
    }

    /// When the next one is due, if anybody looks.
    fn due(&self) -> Option<Time> {
        let pace = if self.changed { PACE } else { PULSE };
        (self.feed.status.receiver_count() > 0).then_some(self.shown + pace)
    }
}

impl Driver {
    /// Where pages find what they follow.
    pub(crate) fn feed(&self) -> Feed {
        self.display.feed.clone()
    }

    /// When the loop has to turn for those who look.
    pub(super) fn display_due(&self) -> Option<Time> {
        self.display.due()
    }

    pub(super) fn display(&mut self, now: Time) {
        if self.display.due().is_some_and(|due| due <= now) {
            let status = self.status().into();
            (self.display.shown, self.display.changed) = (now, false);
            self.display.feed.status.send_replace(Some(status));
        }
    }
}
