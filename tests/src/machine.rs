//! Whether there was a machine to run on. On a shared host all processes of a virtual machine may stand still for seconds; that
//! something then comes too late says nothing of the program. This watches for it, and a panic about time ends with what it saw,
//! so that `tests/run-tests` can tell such a failure from others. What is wrong or lost is so on any machine.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, panic, thread};

/// The line begins with this; `tests/to-run-again` looks for it.
pub const DISTURBED: &str = "disturbed: ";

/// What a panic says for which time alone may be the cause: see [`wait`](crate::wait) and [`load`](crate::load).
const OF_TIME: [&str; 2] = [": not within ", " requests failed: "];

/// What a failure was caused by may be so long ago: as long as a group may take to be in order.
const MEMORY: Duration = Duration::from_secs(60);

/// Between two looks.
const EVERY: Duration = Duration::from_millis(50);

/// A thread that slept so much too long was not held up by the tests themselves: two at a time do not fill two cores for long.
const LATE: Duration = Duration::from_millis(500);

/// The part of all processors' time within [`WINDOW`] that the host took for others.
const STOLEN: f64 = 0.5;

const WINDOW: Duration = Duration::from_secs(1);

/// What happened within the last minute.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Seen {
    /// The longest time for which a sleeping thread was not woken.
    pub late: Duration,
    /// The largest part of the processors' time that the host took within a second.
    pub stolen: f64,
}

impl Seen {
    /// Whether a test that failed meanwhile may have failed for this.
    pub fn disturbs(&self) -> bool {
        self.late >= LATE || self.stolen >= STOLEN
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Seen { late, stolen } = self;
        write!(
            f,
            "in the last {} s a sleeping thread was woken up to {} ms late, and the host took up to {:.0} % of a second",
            MEMORY.as_secs(),
            late.as_millis(),
            stolen * 100.0
        )
    }
}

/// One look.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    late: Duration,
    /// Since the machine started, in ticks of the kernel: what the host took, and all.
    stolen: u64,
    all: u64,
}

static LOOKS: Mutex<VecDeque<Look>> = Mutex::new(VecDeque::new());

fn looks() -> std::sync::MutexGuard<'static, VecDeque<Look>> {
    LOOKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Watches from now on. Every child that is started begins it.
pub(crate) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        thread::spawn(look_on);
        let tell = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            tell(info);
            let payload = info.payload();
            let text = payload.downcast_ref::<String>().map_or("", String::as_str);
            let seen = seen();
            if OF_TIME.iter().any(|words| text.contains(words)) && seen.disturbs() {
                eprintln!("{DISTURBED}{seen}");
            }
        }));
    });
}

/// What was seen of late.
pub fn seen() -> Seen {
    summary(looks().make_contiguous())
}

fn look_on() {
    let mut due = Instant::now();
    loop {
        let at = Instant::now();
        let (stolen, all) =
            fs::read_to_string("/proc/stat").ok().and_then(|stat| ticks(&stat)).unwrap_or_default();
        let mut looks = looks();
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

fn summary(looks: &[Look]) -> Seen {
    let mut seen = Seen::default();
    let mut first = 0;
    for (n, look) in looks.iter().enumerate() {
        seen.late = seen.late.max(look.late);
        // The latest one that is a whole window before.
        while looks[first + 1..=n].first().is_some_and(|next| look.at - next.at >= WINDOW) {
            first += 1;
        }
        let from = looks[first];
        let (stolen, all) = (look.stolen - from.stolen, look.all - from.all);
        if look.at - from.at >= WINDOW && all > 0 {
            #[allow(clippy::cast_precision_loss)] // some hundred ticks
            let share = stolen as f64 / all as f64;
            seen.stolen = seen.stolen.max(share);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_quiet_minute_disturbs_nobody() {
        let seen = summary(&looks((0..1200).map(|n| (n * 51, n / 20, n * 10))));
        assert_eq!(seen.late, Duration::from_millis(1));
        assert!(seen.stolen < 0.02 && !seen.disturbs(), "{seen:?}");
        assert!(!summary(&[]).disturbs());
    }

    #[test]
    fn a_pause_and_a_greedy_host_are_seen() {
        let paused = summary(&looks([(0, 0, 0), (50, 0, 10), (750, 0, 20), (800, 0, 30)]));
        assert_eq!((paused.late, paused.disturbs()), (Duration::from_millis(650), true));
        // Most of one second of a minute, else nothing.
        let taken = |n: u64| n.clamp(400, 420) - 400;
        let greedy = summary(&looks((0..1200).map(|n| (n * 50, taken(n) * 6, n * 10))));
        assert!((0.59..0.61).contains(&greedy.stolen) && greedy.disturbs(), "{greedy:?}");
        assert!(greedy.to_string().ends_with("took up to 60 % of a second"), "{greedy}");
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
