//! What the API believes: who is primary, and under which epoch.
//!
//! A [`View`] comes from one read of one znode. [`Views`] is the only place where a view is made, so that a process's
//! view never goes back: not to a lower epoch, not to another primary under the same epoch, and not from the record
//! to the announcement, whatever ZooKeeper shows (also after a new session, or when somebody edits by hand).

use std::sync::Arc;

use axum::http::HeaderValue;
use failover::confirm::{Durability, admits};
use topology::{Endpoint, InSync, State, Topology};

#[cfg(any(test, feature = "fuzz"))]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) mod fuzz;

/// Where a view was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The record that the monitors agree on.
    State,
    /// The announcement alone: there is no monitor yet.
    Path,
}

impl Source {
    /// The word for it in answers.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Source::State => "state",
            Source::Path => "path",
        }
    }
}

/// One view of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// Where it was read.
    pub(crate) source: Source,
    /// The epoch of the record; 0 by path, for no record has that one.
    pub(crate) epoch: u64,
    /// The epoch of the last promotion; 0 by path.
    pub(crate) promoted: u64,
    /// The server that takes writes.
    pub(crate) primary: Endpoint,
    /// Which process it must be; empty by path, where nobody knows.
    pub(crate) run_id: String,
    /// The replicas that a confirmation needs.
    pub(crate) in_sync: Vec<InSync>,
    /// With fewer replicas in sync no write is to be confirmed, so none is taken (R6).
    pub(crate) min_in_sync: u32,
    /// Every other member, usable or not.
    pub(crate) replicas: Vec<Endpoint>,
    /// The primary as it stands in every answer.
    pub(crate) primary_header: HeaderValue,
    /// The epoch likewise. By path there is none: an epoch comes with one primary, and an edit by hand can name another.
    pub(crate) epoch_header: Option<HeaderValue>,
}

impl View {
    /// Whether the process with this run id at this address is the primary.
    pub(crate) fn is_primary(&self, addr: &Endpoint, run_id: &str) -> bool {
        self.primary == *addr && (self.source == Source::Path || self.run_id == run_id)
    }

    /// The durability of a write under this view, if `wanted` is what was configured. Without a record there is nobody
    /// who could confirm anything.
    pub(crate) fn durability(&self, wanted: Durability) -> Durability {
        match self.source {
            Source::State => wanted,
            Source::Path => Durability::Async,
        }
    }

    /// Whether a write that every replica in sync is to have is taken at all (R6).
    pub(crate) fn admits(&self) -> bool {
        admits(&self.in_sync, self.min_in_sync)
    }

    /// Whether every replica in sync here is so under `next`, too; if not, nothing more is confirmed under this view.
    pub(crate) fn set_lives_on(&self, next: &View) -> bool {
        self.in_sync.iter().all(|entry| next.in_sync.iter().any(|other| other.seen_as == entry.seen_as))
    }

    /// Every server of the group, the primary first.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Endpoint> {
        std::iter::once(&self.primary).chain(&self.replicas)
    }

    fn of_state(state: State) -> Self {
        let replicas = state.topology().replicas;
        Self {
            source: Source::State,
            epoch: state.epoch,
            promoted: state.promoted,
            primary_header: header(&state.primary.addr),
            epoch_header: Some(HeaderValue::from(state.epoch)),
            primary: state.primary.addr,
            run_id: state.primary.run_id,
            in_sync: state.in_sync,
            min_in_sync: state.min_in_sync,
            replicas,
        }
    }

    fn of_path(topology: Topology) -> Self {
        Self {
            source: Source::Path,
            epoch: 0,
            promoted: 0,
            primary_header: header(&topology.primary),
            epoch_header: None,
            primary: topology.primary,
            run_id: String::new(),
            in_sync: Vec::new(),
            min_in_sync: 0,
            replicas: topology.replicas,
        }
    }
}

/// An endpoint is letters, digits and a few signs, so the text is always a header value.
fn header(primary: &Endpoint) -> HeaderValue {
    HeaderValue::try_from(primary.to_string()).unwrap_or(HeaderValue::from_static(""))
}

/// What came of a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Taken {
    /// The view is another one now.
    New(Arc<View>),
    /// Nothing that matters here has changed.
    Same,
    /// The last good view stays, and somebody should look.
    Refused(String),
}

/// The last good view of one service.
#[derive(Debug, Default)]
pub(crate) struct Views {
    last: Option<Arc<View>>,
    /// Also set by a record that could not be read: where a record is, the announcement alone is not to be followed.
    record_seen: bool,
}

impl Views {
    /// Takes the content of the `state` znode.
    pub(crate) fn state(&mut self, data: &[u8]) -> Taken {
        self.record_seen = true;
        let state = match State::from_json(data) {
            Ok(state) => state,
            Err(error) => return Taken::Refused(error.to_string()),
        };
        if state.epoch == 0 || state.promoted > state.epoch {
            return Taken::Refused(format!("epoch {}, promoted {}", state.epoch, state.promoted));
        }
        let next = View::of_state(state);
        match self.last.as_deref() {
            Some(last) if last.source == Source::State => match step_back(last, &next) {
                Some(why) => Taken::Refused(why),
                None => self.accept(next),
            },
            Some(_) | None => self.accept(next),
        }
    }

    /// Takes the absence of the `state` znode, and with it the announcement, if it is there.
    pub(crate) fn path(&mut self, data: Option<&[u8]>) -> Taken {
        if self.record_seen {
            return Taken::Refused("the record is gone".to_owned());
        }
        let Some(data) = data else { return Taken::Refused("the path is not there".to_owned()) };
        match Topology::from_json(data) {
            Ok(topology) => self.accept(View::of_path(topology)),
            Err(error) => Taken::Refused(error.to_string()),
        }
    }

    fn accept(&mut self, next: View) -> Taken {
        if self.last.as_deref() == Some(&next) {
            return Taken::Same;
        }
        let next = Arc::new(next);
        self.last = Some(next.clone());
        Taken::New(next)
    }
}

/// Why the next view cannot follow the last one.
fn step_back(last: &View, next: &View) -> Option<String> {
    let set = |view: &View| {
        let mut set: Vec<_> = view
            .in_sync
            .iter()
            .map(|e| (e.addr.clone(), e.run_id.clone(), e.since, e.seen_as.clone()))
            .collect();
        set.sort();
        set
    };
    if next.epoch < last.epoch || next.promoted < last.promoted {
        return Some(format!(
            "epoch {} (promoted {}) is older than epoch {} (promoted {})",
            next.epoch, next.promoted, last.epoch, last.promoted
        ));
    }
    let same_decision = next.primary == last.primary
        && next.run_id == last.run_id
        && next.promoted == last.promoted
        && next.min_in_sync == last.min_in_sync
        && set(next) == set(last);
    if next.epoch == last.epoch && !same_decision {
        return Some(format!("epoch {} stood for another primary or another set before", next.epoch));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(epoch: u64, promoted: u64, primary: &str, in_sync: &[&str]) -> String {
        let entry = |addr: &&str| {
            format!(r#"{{"addr":"{addr}","seen_as":"{addr}","run_id":"r","since":1,"replid":"h{epoch}"}}"#)
        };
        let in_sync = in_sync.iter().map(entry).collect::<Vec<_>>().join(",");
        format!(
            r#"{{"epoch":{epoch},"promoted":{promoted},"primary":{{"addr":"{primary}","run_id":"p{primary}"}},
            "in_sync":[{in_sync}],"min_in_sync":0,"members":["a:1","b:1","c:1"],"path_version":0,
            "phase":"serving","leader":"m","reason":""}}"#
        )
    }

    fn take(views: &mut Views, text: &str) -> Taken {
        views.state(text.as_bytes())
    }

    #[test]
    fn a_record_becomes_a_view() {
        let Taken::New(view) = take(&mut Views::default(), &record(7, 5, "b:1", &["a:1"])) else { panic!() };
        assert_eq!((view.epoch, view.source), (7, Source::State));
        assert_eq!(view.members().map(ToString::to_string).collect::<Vec<_>>(), ["b:1", "a:1", "c:1"]);
        assert_eq!(
            (&view.primary_header, view.epoch_header.as_ref()),
            (&"b:1".parse().unwrap(), Some(&7.into()))
        );
        let at = |text: &str| text.parse().unwrap();
        assert!(view.is_primary(&at("b:1"), "pb:1"));
        assert!(!view.is_primary(&at("b:1"), "another"));
        assert!(!view.is_primary(&at("a:1"), "pb:1"));
    }

    #[test]
    fn what_a_set_admits_and_what_outlives_it() {
        let view = |text: String| match take(&mut Views::default(), &text) {
            Taken::New(view) => view,
            other @ (Taken::Same | Taken::Refused(_)) => panic!("{other:?}"),
        };
        let two = view(record(7, 5, "b:1", &["a:1", "c:1"]).replace("min_in_sync\":0", "min_in_sync\":2"));
        let one = view(record(8, 5, "b:1", &["a:1"]).replace("min_in_sync\":0", "min_in_sync\":2"));
        assert_eq!((two.admits(), one.admits()), (true, false));
        assert_eq!(
            (one.set_lives_on(&two), two.set_lives_on(&one), two.set_lives_on(&two)),
            (true, false, true)
        );
        assert_eq!(two.durability(Durability::Sync), Durability::Sync);
        assert_eq!(two.durability(Durability::Async), Durability::Async);
        let Taken::New(by_path) = Views::default().path(Some(br#"{"primary":"a:1","secondary":[]}"#)) else {
            panic!()
        };
        assert_eq!(by_path.durability(Durability::Sync), Durability::Async);
    }

    #[test]
    fn it_never_goes_back() {
        let mut views = Views::default();
        assert!(matches!(take(&mut views, &record(7, 5, "b:1", &["a:1", "c:1"])), Taken::New(_)));
        let refused = [
            record(6, 5, "b:1", &["a:1", "c:1"]),
            record(7, 4, "b:1", &["a:1", "c:1"]),
            record(7, 5, "a:1", &["b:1", "c:1"]),
            record(7, 5, "b:1", &["a:1"]),
            record(8, 4, "b:1", &["a:1"]),
            record(7, 5, "b:1", &["a:1", "c:1"]).replace("min_in_sync\":0", "min_in_sync\":1"),
            record(8, 9, "b:1", &["a:1"]),
            record(0, 0, "b:1", &[]),
            String::new(),
            "{}".to_owned(),
            r#"{"primary":"a:1","secondary":[]}"#.to_owned(),
            record(9, 9, "nonsense", &[]),
        ];
        for text in refused {
            assert!(matches!(take(&mut views, &text), Taken::Refused(_)), "{text}");
        }
        // The same decision in another order is the same decision.
        let again = take(&mut views, &record(7, 5, "b:1", &["c:1", "a:1"]));
        assert!(matches!(again, Taken::New(_)));
        assert_eq!(take(&mut views, &record(7, 5, "b:1", &["c:1", "a:1"])), Taken::Same);
        assert!(matches!(take(&mut views, &record(8, 5, "b:1", &["a:1"])), Taken::New(_)));
        assert!(matches!(take(&mut views, &record(9, 9, "a:1", &[])), Taken::New(_)));
    }

    #[test]
    fn the_path_alone_only_where_no_record_ever_was() {
        let announced = Some(&br#"{"primary":"a:1","secondary":["b:1"]}"#[..]);
        let moved = Some(&br#"{"primary":"b:1","secondary":["a:1"]}"#[..]);
        let mut views = Views::default();
        assert!(matches!(views.path(None), Taken::Refused(_)));
        let Taken::New(view) = views.path(announced) else { panic!() };
        assert_eq!((view.epoch, view.source, view.run_id.as_str()), (0, Source::Path, ""));
        assert_eq!(view.epoch_header, None, "two primaries may come by path");
        assert!(view.is_primary(&"a:1".parse().unwrap(), "anybody"));
        assert_eq!(views.path(announced), Taken::Same);
        assert!(matches!(views.path(Some(b"x")), Taken::Refused(_)));
        assert!(matches!(views.path(moved), Taken::New(_)));
        assert!(matches!(take(&mut views, &record(1, 1, "a:1", &[])), Taken::New(_)));
        assert!(matches!(views.path(announced), Taken::Refused(_)));

        let mut broken = Views::default();
        assert!(matches!(take(&mut broken, "x"), Taken::Refused(_)));
        assert!(matches!(broken.path(announced), Taken::Refused(_)));
    }
}
