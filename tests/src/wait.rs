//! Conditions with deadlines: the only way in which anything here waits.

use std::fmt::Display;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::machine;

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(5);

/// Waits until `look` gives a value; panics with `what` and the last reason after `limit`.
#[track_caller]
pub fn until<T, E: Display>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, E>) -> T {
    let begun = Instant::now();
    match within(limit, &mut look) {
        Ok(value) => value,
        Err(why) => panic!("{what}: not within {limit:?}: {why}{}", machine::excuse(begun, Instant::now())),
    }
}

/// The same without a panic: the value, or the last reason why there is none.
pub fn within<T, E>(limit: Duration, mut look: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let end = Instant::now() + limit;
    loop {
        let late = Instant::now() >= end;
        match look() {
            Ok(value) => return Ok(value),
            Err(why) if late => return Err(why),
            Err(_) => sleep(POLL),
        }
    }
}

/// Looks again and again for the whole of `time` and panics as soon as `look` gives a reason: for what must not happen.
#[track_caller]
pub fn never<E: Display>(what: &str, time: Duration, mut look: impl FnMut() -> Result<(), E>) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        if let Err(why) = look() {
            panic!("{what}: {why}");
        }
        sleep(POLL);
    }
}

/// Panics if what is over, but began at `begun`, took longer than this.
#[track_caller]
pub fn took(what: &str, limit: Duration, begun: Instant, took: Duration) {
    let excuse = || machine::excuse(begun, begun + took);
    assert!(took < limit, "{what}: not within {limit:?}: it took {took:?}{}", excuse());
}

/// `Ok` if it holds, else the reason: makes a condition out of a comparison.
pub fn holds(condition: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(why()) }
}
