//! Whether there was a machine to run on. On a shared host all processes of a virtual machine may stand still for seconds; that
//! something then comes too late says nothing of the program. This watches for it. What failed for want of time says what was
//! lost of it ([`excuse`]), so that `tests/run-tests` can tell such a failure from others. What is wrong or lost is so on any
//! machine.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, thread};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(50);

/// No wait is longer.
const MEMORY: Duration = Duration::from_secs(180);

/// A thread that is woken so late was held up by more than its neighbours: two tests at a time do not fill two cores for long.
const LATE: Duration = Duration::from_millis(100);

/// So much must have been lost at least, and this part of the whole time.
const LOST: Duration = Duration::from_millis(250);
const PART: u32 = 10;

/// One look.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    late: Duration,
    /// Since the machine started, in ticks of the kernel, of all processors: what the host took, and all.
    stolen: u64,
    all: u64,
}

static LOOKS: Mutex<VecDeque<Look>> = Mutex::new(VecDeque::new());

fn looks() -> MutexGuard<'static, VecDeque<Look>> {
    LOOKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Watches from now on. Every child that is started begins it.
pub(crate) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        thread::spawn(look_on);
    });
}

/// A line of its own for the message of a failure, if the machine gave too little of the time from `begun` to `ended` to tell who
/// was too late, else nothing. `tests/to-run-again` looks for it.
pub fn excuse(begun: Instant, ended: Instant) -> String {
    // Whoever was held up, too, and goes on first, knows nothing yet.
    let limit = Instant::now() + 20 * EVERY;
    while looks().back().is_some_and(|look| look.at < ended) && Instant::now() < limit {
        thread::sleep(EVERY);
    }
    let (late, stolen) = lost(looks().make_contiguous(), begun, ended);
    let (whole, most) = (ended.saturating_duration_since(begun), late.max(stolen));
    if most < LOST || most < whole / PART {
        return String::new();
    }
    format!(
        "\ndisturbed: within {whole:.1?} all stood still for {late:.1?}, and the host took {stolen:.1?} for others\n"
    )
}

fn look_on() {
    let mut due = Instant::now();
    loop {
        let at = Instant::now();
        let ticks = fs::read_to_string("/proc/stat").ok().and_then(|stat| ticks(&stat));
        let mut looks = looks();
        // What cannot be read is as it was.
        let (stolen, all) = ticks.or(looks.back().map(|look| (look.stolen, look.all))).unwrap_or_default();
        looks.push_back(Look { at, late: at.saturating_duration_since(due), stolen, all });
        while looks.front().is_some_and(|look| at - look.at > MEMORY) {
            looks.pop_front();
        }
        drop(looks);
        due = at + EVERY;
        thread::sleep(EVERY);
    }
}

/// Of all processors: what the host took (the eighth column), and all.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let columns = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    // The last two, for guests, are counted in the first two already.
    let columns: Vec<u64> = columns.take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    Some((*columns.get(7)?, columns.iter().sum()))
}

/// Between the two: for how long nobody was woken, and the host's part of the time.
fn lost(looks: &[Look], begun: Instant, ended: Instant) -> (Duration, Duration) {
    // A look tells of the time before it.
    let meant: Vec<&Look> =
        looks.iter().filter(|look| look.at > begun && look.at - look.late < ended).collect();
    let (Some(first), Some(last)) = (meant.first(), meant.last()) else { return Default::default() };
    let late = meant.iter().map(|look| look.late).filter(|late| *late >= LATE).sum();
    let (stolen, all) = (last.stolen.saturating_sub(first.stolen), last.all.saturating_sub(first.all));
    #[allow(clippy::cast_precision_loss)] // some thousand ticks
    let part = if all == 0 { 0.0 } else { (stolen as f64 / all as f64).min(1.0) };
    (late, (last.at - first.at).mul_f64(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn looks(of: impl IntoIterator<Item = (u64, u64, u64)>) -> Vec<Look> {
        let start = Instant::now();
        let mut due = start;
        let mut all = Vec::new();
        for (ms, stolen, ticks) in of {
            let at = start + Duration::from_millis(ms);
            all.push(Look { at, late: at.saturating_duration_since(due), stolen, all: ticks });
            due = at + EVERY;
        }
        all
    }

    #[test]
    fn only_what_was_lost_meanwhile_counts() {
        // A second of standing still, then half a minute with a tenth of it stolen.
        let mut seen = vec![(0, 0, 0), (50, 0, 10), (1100, 0, 20)];
        seen.extend((1..=600).map(|n| (1100 + n * 50, n, 20 + n * 10)));
        let looks = looks(seen);
        let start = looks[0].at;
        let until = |from: Duration, to: Duration| lost(&looks, start + from, start + to);
        assert_eq!(until(Duration::ZERO, SECOND / 2).0, SECOND, "it ended in the midst of it");
        assert_eq!(until(SECOND / 2, SECOND * 3).0, SECOND);
        let (late, stolen) = until(SECOND * 2, SECOND * 22);
        assert!(late.is_zero() && (1.98..2.0).contains(&stolen.as_secs_f64()), "{late:?} {stolen:?}");
        assert_eq!(until(SECOND * 60, SECOND * 61), (Duration::ZERO, Duration::ZERO), "nothing is known");
        assert_eq!(lost(&[], start, start + SECOND), (Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn a_count_that_goes_back_is_nothing() {
        let looks = looks([(0, 100, 1000), (50, 0, 0), (100, 50, 10)]);
        assert_eq!(lost(&looks[..2], looks[0].at - SECOND, looks[1].at).1, Duration::ZERO);
        assert!(lost(&looks[1..], looks[0].at, looks[2].at).1 <= SECOND / 20);
    }

    #[test]
    fn the_kernels_line_is_read() {
        assert_eq!(ticks("cpu  10 20 30 40 50 60 70 80 7 7\ncpu0 1"), Some((80, 360)));
        assert_eq!(ticks("cpu  10 20 30"), None);
        assert_eq!(ticks("cpu  10 20 x 40 50 60 70 80"), None);
        assert_eq!(ticks(""), None);
        let stat = fs::read_to_string("/proc/stat").unwrap();
        assert!(ticks(&stat).is_some_and(|(_, all)| all > 0), "{stat}");
    }
}
