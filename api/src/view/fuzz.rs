//! What must hold whatever the znodes of a service hold, one content after the other.

use std::collections::BTreeMap;

use super::{Source, Taken, Views};

/// Contents, each behind a byte that says where it was found, with a zero byte between them.
pub(crate) fn check(data: &[u8]) {
    let (mut views, mut last, mut primaries) = (Views::default(), (0, 0), BTreeMap::new());
    let mut record_seen = false;
    for content in data.split(|byte| *byte == 0) {
        let taken = match content.split_first() {
            Some((b's', content)) => {
                record_seen = true;
                views.state(content)
            }
            Some((_, content)) => views.path(Some(content)),
            None => views.path(None),
        };
        let Taken::New(view) = taken else { continue };
        assert_eq!(view.primary_header.to_str().ok(), Some(view.primary.to_string().as_str()));
        assert!(!view.replicas.contains(&view.primary));
        assert!(view.in_sync.iter().all(|entry| entry.addr != view.primary));
        if view.source == Source::Path {
            assert!(!record_seen, "back from the record to the announcement");
            continue;
        }
        assert!(last <= (view.epoch, view.promoted), "the view went back");
        last = (view.epoch, view.promoted);
        let primary = (view.primary.clone(), view.run_id.clone());
        assert_eq!(
            *primaries.entry(view.epoch).or_insert(primary.clone()),
            primary,
            "one epoch, two primaries"
        );
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn kept_inputs() {
        world::fuzz::replay("view", super::check);
    }
}
