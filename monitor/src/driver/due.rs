//! When which service wants to be looked at, of thousands: the next one is found at once, and one whose moment moves on
//! with every answer costs nothing for that.

use std::collections::BTreeSet;
use std::sync::Arc;

use failover::Time;

/// The moments, in their order. A service stands here at most once.
#[derive(Debug, Default)]
pub(super) struct Due(BTreeSet<(Time, Arc<str>)>);

impl Due {
    /// The next moment.
    pub(super) fn first(&self) -> Option<Time> {
        self.0.first().map(|(at, _)| *at)
    }

    /// A service that stands here at `before` wants to be looked at `at`. Where that is later than before it stays as it is:
    /// who is woken too early is put back once, and not with each of the answers in between. Gives where it stands now.
    #[must_use]
    pub(super) fn put(&mut self, name: &Arc<str>, before: Option<Time>, at: Option<Time>) -> Option<Time> {
        match (before, at) {
            (Some(before), Some(at)) if before <= at => return Some(before),
            (Some(before), _) => _ = self.0.remove(&(before, name.clone())),
            (None, _) => {}
        }
        if let Some(at) = at {
            self.0.insert((at, name.clone()));
        }
        at
    }

    /// Takes the first one whose moment has come.
    pub(super) fn take(&mut self, now: Time) -> Option<Arc<str>> {
        self.first().filter(|at| *at <= now)?;
        self.0.pop_first().map(|(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Time {
        Time::from_millis(n)
    }

    #[test]
    fn each_stands_once_and_an_earlier_moment_wins() {
        let (mut due, a, b): (Due, Arc<str>, Arc<str>) = (Due::default(), "a".into(), "b".into());
        let at_a = due.put(&a, None, Some(ms(500)));
        let at_b = due.put(&b, None, Some(ms(300)));
        assert_eq!((due.first(), at_a, at_b), (Some(ms(300)), Some(ms(500)), Some(ms(300))));
        let at_a = due.put(&a, at_a, Some(ms(600)));
        assert_eq!(at_a, Some(ms(500)), "later is left where it is");
        let at_a = due.put(&a, at_a, Some(ms(200)));
        assert_eq!((at_a, due.take(ms(199))), (Some(ms(200)), None));
        assert_eq!(due.take(ms(300)).as_deref(), Some("a"));
        assert_eq!(due.take(ms(300)).as_deref(), Some("b"));
        assert_eq!(due.take(ms(9999)), None);
    }

    #[test]
    fn one_that_waits_for_nothing_or_is_gone_stands_nowhere() {
        let (mut due, a): (Due, Arc<str>) = (Due::default(), "a".into());
        let at = due.put(&a, None, Some(ms(5)));
        assert_eq!((due.put(&a, at, None), due.first()), (None, None));
    }
}
