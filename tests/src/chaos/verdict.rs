//! What a history proves: what was lost, what came from nowhere, and whether the shared keys have one order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::traffic::{Action, Outcome, Record, own_keys};
use crate::linearizable::{self, Kind, Op};

/// The figures of one round, and what is wrong with it.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// All requests.
    pub requests: usize,
    /// Writes.
    pub writes: usize,
    /// Writes that were acknowledged.
    pub acknowledged: usize,
    /// Requests that definitely failed.
    pub failed: usize,
    /// Writes of which nobody knows.
    pub unknown: usize,
    /// Acknowledged and gone.
    pub lost: usize,
    /// Shared keys whose history no order explains.
    pub non_linearizable: usize,
    /// Ordinary reads that found what had been overwritten before they began; allowed during a partition.
    pub stale_plain: usize,
    /// Changes of the primary that the answers show.
    pub failovers: usize,
    /// The longest time without an acknowledged write.
    pub gap: Duration,
    /// One sentence for each promise that was broken.
    pub violations: Vec<String>,
    /// One sentence for each figure that was missed although nothing was lost. A machine that stands still for half a
    /// second is enough for that.
    pub missed: Vec<String>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { requests, acknowledged, lost, non_linearizable, failed, unknown, failovers, .. } = self;
        write!(f, "{requests} requests, {acknowledged} writes acknowledged, {lost} lost, ")?;
        write!(f, "{non_linearizable} keys not linearizable, {failed} failed, {unknown} indeterminate, ")?;
        write!(f, "{failovers} failovers, gap {} ms", self.gap.as_millis())
    }
}

/// What a fault takes away by its nature, so that nobody may call it lost: FLUSHALL, or the death of every process.
#[derive(Debug, Clone, Copy)]
pub struct Excuse {
    /// Writes acknowledged before this have to stay all the same.
    pub kept: Duration,
    /// What was asked for after this is judged as ever.
    pub until: Duration,
}

impl Excuse {
    /// The history with the writes in between as indeterminate ones, and without the reads up to the end of it.
    #[must_use]
    fn applied_to(&self, history: &[Record]) -> Vec<Record> {
        let excused = |record: &Record| {
            let stays = record.action == Action::WriteOwn && record.returned < self.kept;
            if record.invoked >= self.until || stays {
                return Some(record.clone());
            }
            let outcome = match &record.outcome {
                Outcome::Done(_) => Outcome::Unknown("it may be gone".to_owned()),
                outcome @ (Outcome::Failed(_) | Outcome::Unknown(_) | Outcome::Nonsense(_)) => {
                    outcome.clone()
                }
            };
            record.is_write().then(|| Record { outcome, ..record.clone() })
        };
        history.iter().filter_map(excused).collect()
    }
}

/// Judges a history. `stored` is what the primary holds in the end, for every key of its own that it holds.
pub fn judge(history: &[Record], stored: &BTreeMap<String, u64>, excuse: Option<Excuse>) -> Verdict {
    let count = |matches: &dyn Fn(&Record) -> bool| history.iter().filter(|record| matches(record)).count();
    let mut verdict = Verdict {
        requests: history.len(),
        writes: count(&Record::is_write),
        acknowledged: count(&Record::is_acknowledged),
        failed: count(&|record| matches!(record.outcome, Outcome::Failed(_))),
        unknown: count(&|record| record.is_write() && matches!(record.outcome, Outcome::Unknown(_))),
        stale_plain: stale_reads(history, Action::Read),
        failovers: failovers(history),
        gap: longest_gap(history.iter()),
        ..Verdict::default()
    };
    verdict.judge_answers(history);
    match excuse.map(|excuse| excuse.applied_to(history)) {
        None => verdict.judge_data(history, stored),
        Some(history) => verdict.judge_data(&history, stored),
    }
    verdict
}

impl Verdict {
    /// What a scenario expects besides: at most so many failovers and, perhaps, no request that fails.
    pub fn hold_against(&mut self, failovers: usize, may_fail: bool) {
        if self.failovers > failovers {
            self.missed.push(format!("{} failovers instead of {failovers}", self.failovers));
        }
        if !may_fail && self.failed + self.unknown > 0 {
            let Verdict { failed, unknown, .. } = self;
            self.missed.push(format!("{failed} requests failed, {unknown} writes are indeterminate"));
        }
    }

    fn judge_data(&mut self, history: &[Record], stored: &BTreeMap<String, u64>) {
        self.judge_own_keys(history, stored);
        self.judge_shared_keys(history);
    }

    fn judge_own_keys(&mut self, history: &[Record], stored: &BTreeMap<String, u64>) {
        for (key, record) in own_keys(history) {
            let there = stored.get(key);
            let broken = match (&record.outcome, there) {
                (Outcome::Done(_), Some(value)) if *value == record.value => None,
                (Outcome::Done(_), _) => {
                    self.lost += 1;
                    Some("was acknowledged")
                }
                (Outcome::Failed(_), Some(_)) => Some("failed definitely"),
                (Outcome::Failed(_), None) | (Outcome::Unknown(_) | Outcome::Nonsense(_), _) => None,
            };
            if let Some(broken) = broken {
                self.violations.push(format!("{key} {broken}, and holds {there:?}: {record:?}"));
            }
        }
    }

    fn judge_shared_keys(&mut self, history: &[Record]) {
        let mut keys: BTreeMap<&str, Vec<Op>> = BTreeMap::new();
        for record in history.iter().filter(|record| record.action != Action::WriteOwn) {
            keys.entry(&record.key).or_default().extend(operation(record));
        }
        for (key, ops) in keys {
            if let Err(violation) = linearizable::check(&ops) {
                self.non_linearizable += 1;
                self.violations.push(format!("{key} (times in microseconds): {violation}"));
            }
        }
        let stale = stale_reads(history, Action::ReadStrong);
        if stale > 0 {
            self.violations.push(format!("{stale} strong reads were stale"));
        }
        let written: BTreeSet<u64> = history.iter().filter(|r| r.is_write()).map(|r| r.value).collect();
        for read in history.iter().filter(|record| record.action == Action::Read) {
            if let Outcome::Done(Some(value)) = read.outcome
                && !written.contains(&value)
            {
                self.violations.push(format!("an ordinary read found what nobody wrote: {read:?}"));
            }
        }
    }

    fn judge_answers(&mut self, history: &[Record]) {
        for record in history {
            if let Outcome::Nonsense(what) = &record.outcome {
                self.violations.push(format!("{} was answered with {what}", record.key));
            }
        }
        for (epoch, primaries) in primaries(history) {
            if primaries.len() > 1 {
                self.violations.push(format!("epoch {epoch} had two primaries: {primaries:?}"));
            }
        }
    }
}

/// What an order has to explain of a record: nothing, if it had no effect and found nothing.
fn operation(record: &Record) -> Option<Op> {
    let at = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let (invoked, returned) = (at(record.invoked), Some(at(record.returned)));
    match (record.action, &record.outcome) {
        (Action::Write, Outcome::Done(_)) => {
            Some(Op { invoked, returned, kind: Kind::Write(Some(record.value)) })
        }
        (Action::Write, Outcome::Unknown(_)) => {
            Some(Op { invoked, returned: None, kind: Kind::Write(Some(record.value)) })
        }
        (Action::ReadStrong, Outcome::Done(value)) => {
            Some(Op { invoked, returned, kind: Kind::Read(*value) })
        }
        (Action::Write | Action::ReadStrong, _) | (Action::WriteOwn | Action::Read, _) => None,
    }
}

/// Reads that found a value although a later write had been acknowledged before they began: what is later by the
/// clock alone. The search for an order finds more, but does not count.
fn stale_reads(history: &[Record], action: Action) -> usize {
    let mut keys: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in history {
        keys.entry(&record.key).or_default().push(record);
    }
    let stale = |records: &Vec<&Record>| {
        let mut writes: Vec<&&Record> = records.iter().filter(|record| record.is_acknowledged()).collect();
        writes.sort_by_key(|write| write.returned);
        let ends: BTreeMap<u64, Duration> =
            writes.iter().map(|write| (write.value, write.returned)).collect();
        // By the end of a write: the latest beginning of it and all that ended before.
        let mut latest = Duration::ZERO;
        let begun: Vec<(Duration, Duration)> = writes
            .iter()
            .map(|write| {
                latest = latest.max(write.invoked);
                (write.returned, latest)
            })
            .collect();
        let is_stale = |read: &&&Record| {
            let Outcome::Done(value) = &read.outcome else { return false };
            let before = begun.partition_point(|(end, _)| *end < read.invoked);
            let Some((_, begun)) = before.checked_sub(1).and_then(|at| begun.get(at)) else { return false };
            match value {
                None => true,
                Some(value) => ends.get(value).is_some_and(|end| end < begun),
            }
        };
        records.iter().filter(|record| record.action == action).filter(is_stale).count()
    };
    keys.values().map(stale).sum()
}

fn primaries(history: &[Record]) -> BTreeMap<u64, BTreeSet<&str>> {
    let mut seen: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    for (epoch, primary) in history.iter().filter_map(|record| record.given_by.as_ref()) {
        seen.entry(*epoch).or_default().insert(primary);
    }
    seen
}

fn failovers(history: &[Record]) -> usize {
    let in_order: Vec<&str> = primaries(history).values().filter_map(|all| all.first().copied()).collect();
    in_order.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

/// The longest time without an acknowledged write in these records.
pub fn longest_gap<'a>(records: impl Iterator<Item = &'a Record>) -> Duration {
    let mut ends: Vec<Duration> = records.filter(|r| r.is_acknowledged()).map(|r| r.returned).collect();
    ends.sort();
    ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(action: Action, value: u64, at: u64, outcome: Outcome) -> Record {
        let key = if action == Action::WriteOwn { format!("own-{value}") } else { "shared".to_owned() };
        let (invoked, returned) = (Duration::from_millis(at), Duration::from_millis(at + 1));
        Record { client: 0, action, key, value, invoked, returned, outcome, given_by: None }
    }

    fn write(value: u64, at: u64) -> Record {
        record(Action::Write, value, at, Outcome::Done(None))
    }

    fn read(action: Action, found: Option<u64>, at: u64) -> Record {
        record(action, 0, at, Outcome::Done(found))
    }

    #[test]
    fn what_breaks_a_promise() {
        let own = |outcome| record(Action::WriteOwn, 1, 0, outcome);
        let holds = BTreeMap::from([("own-1".to_owned(), 1)]);
        let nothing = BTreeMap::new();
        let failed = || Outcome::Failed(String::new());
        let unknown = || Outcome::Unknown(String::new());
        let strong = Action::ReadStrong;
        let rows = [
            ("acknowledged and there", vec![own(Outcome::Done(None))], &holds, 0),
            ("acknowledged and gone", vec![own(Outcome::Done(None))], &nothing, 1),
            ("failed and gone", vec![own(failed())], &nothing, 0),
            ("failed and there", vec![own(failed())], &holds, 1),
            ("unknown and there", vec![own(unknown())], &holds, 0),
            ("unknown and gone", vec![own(unknown())], &nothing, 0),
            ("nonsense", vec![own(Outcome::Nonsense(String::new()))], &nothing, 1),
            ("a strong read finds it", vec![write(1, 0), read(strong, Some(1), 2)], &nothing, 0),
            ("a lost write of a shared key", vec![write(1, 0), read(strong, None, 2)], &nothing, 2),
            (
                "a write that failed is read",
                vec![record(Action::Write, 1, 0, failed()), read(strong, Some(1), 2)],
                &nothing,
                1,
            ),
            (
                "a stale ordinary read",
                vec![write(1, 0), write(2, 2), read(Action::Read, Some(1), 4)],
                &nothing,
                0,
            ),
            ("a value from nowhere", vec![read(Action::Read, Some(1), 4)], &nothing, 1),
        ];
        for (what, history, stored, violations) in rows {
            let verdict = judge(&history, stored, None);
            assert_eq!(verdict.violations.len(), violations, "{what}: {:?}", verdict.violations);
        }
    }

    #[test]
    fn what_a_fault_takes_away() {
        let own = |value, at| record(Action::WriteOwn, value, at, Outcome::Done(None));
        let ms = Duration::from_millis;
        let before = [own(1, 0), own(2, 10), write(3, 10), read(Action::ReadStrong, Some(3), 12)];
        let after = [read(Action::ReadStrong, None, 30), own(4, 32)];
        let history: Vec<Record> = before.into_iter().chain(after).collect();
        let rows = [
            ("all but what came before the snapshot", 5, vec![1, 4], 0),
            ("what the snapshot has", 5, vec![4], 1),
            ("what came afterwards", 5, vec![1], 1),
            ("nothing was to stay", 0, vec![4], 0),
        ];
        for (what, kept, there, violations) in rows {
            let stored = there.into_iter().map(|value| (format!("own-{value}"), value)).collect();
            let verdict = judge(&history, &stored, Some(Excuse { kept: ms(kept), until: ms(20) }));
            assert_eq!(verdict.violations.len(), violations, "{what}: {:?}", verdict.violations);
            assert_eq!((verdict.requests, verdict.unknown), (6, 0), "what was seen is counted as it was");
        }
        let stored = [1, 2, 4].map(|value| (format!("own-{value}"), value)).into();
        assert_ne!(judge(&history, &stored, None).violations.len(), 0, "without an excuse");
    }

    #[test]
    fn what_is_counted() {
        let given = |record: Record, epoch: u64, primary: &str| Record {
            given_by: Some((epoch, primary.to_owned())),
            ..record
        };
        let history = vec![
            given(write(1, 0), 1, "a"),
            given(write(2, 10), 2, "a"),
            given(write(3, 50), 3, "b"),
            given(read(Action::Read, Some(2), 60), 3, "b"),
            given(read(Action::Read, None, 61), 3, "b"),
            given(read(Action::Read, Some(3), 62), 3, "b"),
        ];
        let verdict = judge(&history, &BTreeMap::new(), None);
        assert_eq!((verdict.failovers, verdict.stale_plain, verdict.gap.as_millis()), (1, 2, 40));
        assert_eq!(verdict.violations, Vec::<String>::new());
        let two = [given(write(1, 0), 1, "a"), given(write(2, 2), 1, "b")];
        assert_eq!(judge(&two, &BTreeMap::new(), None).violations.len(), 1);
    }
}
