//! Whether a history of one register could have happened one operation after the other.
//!
//! Wing and Gong's search: of all operations that nothing unordered precedes, one is tried as the next, and then the
//! rest; a set of operations that was reached once with the same value is not tried again. Clients write unique
//! values, so a write of unknown outcome that nobody read is left out, and one that was read came before that read
//! ended; that keeps the search short.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

/// What a register holds; nothing at first, and after it was erased.
pub type Value = Option<u64>;

/// One operation of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op {
    /// When the client asked.
    pub invoked: u64,
    /// When it had its answer. None: it never learned the outcome; a write may take effect at any time after it was
    /// asked for, or never. A read without an answer says nothing and does not belong here.
    pub returned: Option<u64>,
    /// What it did.
    pub kind: Kind,
}

/// What an operation did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It wrote this.
    Write(Value),
    /// It found this.
    Read(Value),
}

/// No order of the operations explains what was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(String);

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Looks for an order in which every read finds what was written last, and no operation comes before one that was
/// answered before it was asked for. The register is empty at first.
pub fn check(history: &[Op]) -> Result<(), Violation> {
    let mut ops = bounded(history);
    ops.sort_by_key(|op| (op.invoked, op.returned.unwrap_or(u64::MAX)));
    let (mut seen, mut furthest) = (HashSet::new(), Reached::default());
    let mut stack = vec![Reached::default()];
    while let Some(reached) = stack.pop() {
        if !seen.insert(reached.clone()) {
            continue;
        }
        if reached.base > furthest.base {
            furthest = reached.clone();
        }
        let Some(next) = reached.candidates(&ops) else { return Ok(()) };
        let follows = |at: &usize| match ops[*at].kind {
            Kind::Read(value) => value == reached.value,
            Kind::Write(_) => true,
        };
        // A read that fits now may come now: it changes nothing for the others.
        let is_read = |at: &&usize| matches!(ops[**at].kind, Kind::Read(_));
        let next: Vec<usize> = next.into_iter().filter(follows).collect();
        match next.iter().find(is_read) {
            Some(read) => stack.push(reached.after(*read, &ops)),
            None => stack.extend(next.into_iter().rev().map(|at| reached.after(at, &ops))),
        }
    }
    Err(explain(&furthest, &ops))
}

/// Gives a write without an answer the bound that a read of its value sets, and drops it if nobody read it.
fn bounded(history: &[Op]) -> Vec<Op> {
    let (mut writes, mut read_by) = (BTreeMap::new(), BTreeMap::new());
    for op in history {
        match (op.kind, op.returned) {
            (Kind::Write(value), _) => *writes.entry(value).or_insert(0) += 1,
            (Kind::Read(value), Some(at)) => {
                let first = read_by.entry(value).or_insert(at);
                *first = at.min(*first);
            }
            (Kind::Read(_), None) => {}
        }
    }
    let bound = |op: &Op| match (op.kind, op.returned) {
        (Kind::Read(_), None) => None,
        (Kind::Write(value), None) => match (value, writes.get(&value), read_by.get(&value)) {
            (_, _, None) => None,
            (Some(_), Some(1), Some(first)) => Some(Op { returned: Some(*first), ..*op }),
            (_, _, Some(_)) => Some(*op),
        },
        (_, Some(_)) => Some(*op),
    };
    history.iter().filter_map(bound).collect()
}

/// A set of operations in some order, and what the register holds after them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Reached {
    /// All before this one are in it.
    base: usize,
    /// These are too.
    beyond: Vec<usize>,
    value: Value,
}

impl Reached {
    /// What may come next; none if nothing has to come any more.
    fn candidates(&self, ops: &[Op]) -> Option<Vec<usize>> {
        let (mut open, mut first_end) = (Vec::new(), u64::MAX);
        for (at, op) in ops.iter().enumerate().skip(self.base) {
            if op.invoked > first_end {
                break;
            }
            if self.beyond.binary_search(&at).is_err() {
                first_end = first_end.min(op.returned.unwrap_or(u64::MAX));
                open.push(at);
            }
        }
        open.retain(|at| ops[*at].invoked <= first_end);
        (first_end < u64::MAX).then_some(open)
    }

    fn after(&self, at: usize, ops: &[Op]) -> Self {
        let mut next = self.clone();
        if let Kind::Write(value) = ops[at].kind {
            next.value = value;
        }
        if let Err(place) = next.beyond.binary_search(&at) {
            next.beyond.insert(place, at);
        }
        while next.beyond.first() == Some(&next.base) {
            next.beyond.remove(0);
            next.base += 1;
        }
        next
    }
}

fn explain(furthest: &Reached, ops: &[Op]) -> Violation {
    let mut text = format!("no order explains this, after {} operations:", furthest.base);
    let from = furthest.base.saturating_sub(3);
    for op in ops.iter().skip(from).take(12) {
        let (verb, value) = match op.kind {
            Kind::Write(value) => ("write", value),
            Kind::Read(value) => ("read", value),
        };
        let value = value.map_or("nothing".to_owned(), |value| value.to_string());
        let end = op.returned.map_or("?".to_owned(), |at| at.to_string());
        let _ = write!(text, "\n  {verb} {value} [{}..{end}]", op.invoked);
    }
    Violation(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn w(value: u64, invoked: u64, returned: u64) -> Op {
        Op { invoked, returned: Some(returned), kind: Kind::Write(Some(value)) }
    }

    /// A write of unknown outcome.
    fn u(value: u64, invoked: u64) -> Op {
        Op { invoked, returned: None, kind: Kind::Write(Some(value)) }
    }

    fn r(value: u64, invoked: u64, returned: u64) -> Op {
        Op { invoked, returned: Some(returned), kind: Kind::Read(Some(value)) }
    }

    fn nothing(invoked: u64, returned: u64) -> Op {
        Op { invoked, returned: Some(returned), kind: Kind::Read(None) }
    }

    fn erased(invoked: u64) -> Op {
        Op { invoked, returned: None, kind: Kind::Write(None) }
    }

    #[test]
    fn histories_that_some_order_explains() {
        let rows: [(&str, Vec<Op>); 13] = [
            ("nothing at all", vec![]),
            ("one after the other", vec![nothing(0, 1), w(1, 2, 3), r(1, 4, 5), w(2, 6, 7), r(2, 8, 9)]),
            (
                "a read during a write finds the old value",
                vec![w(1, 0, 1), w(2, 2, 9), r(1, 3, 4), r(2, 5, 6)],
            ),
            ("two writes at once, in either order", vec![w(1, 0, 9), w(2, 0, 9), r(1, 10, 11)]),
            ("the other order", vec![w(1, 0, 9), w(2, 0, 9), r(2, 10, 11)]),
            ("an unknown write that was never done", vec![w(1, 0, 1), u(2, 2), r(1, 9, 10)]),
            ("one that was done late", vec![w(1, 0, 1), u(2, 2), r(1, 3, 4), r(1, 5, 6), r(2, 7, 8)]),
            ("one that comes after a later write", vec![u(1, 0), w(2, 1, 2), r(2, 3, 4), r(1, 5, 6)]),
            ("reads at once may differ", vec![w(1, 0, 1), w(2, 2, 9), r(2, 3, 8), r(1, 3, 8)]),
            ("an end and a beginning at the same moment", vec![w(1, 0, 5), nothing(5, 6)]),
            ("erased", vec![w(1, 0, 1), erased(2), r(1, 3, 4), nothing(5, 6), w(2, 7, 8), r(2, 9, 9)]),
            (
                "erased twice",
                vec![w(1, 0, 1), erased(2), erased(2), nothing(3, 4), w(2, 5, 6), nothing(7, 8)],
            ),
            (
                "a long operation spans many",
                vec![w(9, 0, 99), w(1, 1, 2), r(1, 3, 4), w(2, 5, 6), r(9, 100, 101)],
            ),
        ];
        for (what, history) in rows {
            assert_eq!(check(&history), Ok(()), "{what}");
        }
    }

    #[test]
    fn histories_that_no_order_explains() {
        let rows: [(&str, Vec<Op>); 11] = [
            ("a lost write", vec![w(1, 0, 1), nothing(2, 3)]),
            ("a stale read", vec![w(1, 0, 1), w(2, 2, 3), r(1, 4, 5)]),
            ("a value from nowhere", vec![w(1, 0, 1), r(7, 2, 3)]),
            ("a value from the future", vec![r(1, 0, 1), w(1, 2, 3)]),
            ("back and forth", vec![w(1, 0, 9), w(2, 0, 9), r(1, 10, 11), r(2, 12, 13)]),
            ("new, then old, during the write", vec![w(1, 0, 1), w(2, 2, 9), r(2, 3, 4), r(1, 5, 6)]),
            ("an unknown write done twice", vec![u(1, 0), w(2, 1, 2), r(1, 3, 4), r(2, 5, 6), r(1, 7, 8)]),
            ("an unknown write undone", vec![w(1, 0, 1), u(2, 2), r(2, 3, 4), r(1, 5, 6)]),
            ("an unknown write read before it began", vec![r(1, 0, 1), u(1, 2)]),
            ("erased before anybody asked for it", vec![w(1, 0, 1), nothing(2, 3), erased(4)]),
            (
                "erased once, gone twice",
                vec![w(1, 0, 1), erased(2), nothing(3, 4), w(2, 5, 6), nothing(7, 8)],
            ),
        ];
        for (what, history) in rows {
            let text = check(&history).expect_err(what).to_string();
            assert!(text.contains("no order"), "{what}: {text}");
        }
    }

    /// Random histories that are linearizable because they were made by a register; then one read of each is changed.
    #[test]
    fn a_register_is_linearizable_and_a_changed_read_is_not() {
        let mut rng = fastrand::Rng::with_seed(1);
        for round in 0..300 {
            let (mut history, mut value, mut taken) = (Vec::new(), None, Vec::new());
            for at in 0..40_u64 {
                // Operation `at` takes effect at 10 * at, somewhere inside its interval.
                let point = 10 * at + 100;
                let (invoked, end) = (point - rng.u64(0..60), point + rng.u64(0..60));
                let kind = if rng.bool() {
                    value = Some(at);
                    Kind::Write(value)
                } else {
                    taken.push(history.len());
                    Kind::Read(value)
                };
                let unknown = matches!(kind, Kind::Write(_)) && rng.u8(0..5) == 0;
                history.push(Op { invoked, returned: (!unknown).then_some(end), kind });
            }
            assert_eq!(check(&history), Ok(()), "round {round}");
            let Some(place) = rng.choice(&taken) else { continue };
            history[*place].kind = Kind::Read(Some(1000));
            assert!(check(&history).is_err(), "round {round}");
        }
    }
}
