//! What must hold whatever bytes come from the network or from a file: one function per parser, which panics where it
//! does not hold. `make fuzz` looks for bytes that break one of them, and the tests replay what it kept
//! (`tests/fuzz/corpus`). The checks of what only the monitor or the API can see stand there (`fuzz.rs` beside the code).

mod address;
mod heartbeat;
mod ini;
mod records;
mod reply;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

pub use address::check as address;
pub use heartbeat::check as heartbeat;
pub use ini::check as ini;
pub use records::check as records;
pub use reply::check as reply;

/// One input takes milliseconds; one that takes longer than this never ends.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs a check over every input that was kept for it, and panics with the name of the first that breaks it; also if
/// there is none at all.
#[track_caller]
pub fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = files(&folder);
    assert!(!files.is_empty(), "nothing is kept in {}", folder.display());
    let (begun, begins) = channel();
    let replay = move || {
        for file in files {
            let input = std::fs::read(&file).unwrap_or_else(|why| panic!("{}: {why}", file.display()));
            let _ = begun.send(Some(file));
            check(&input);
        }
        let _ = begun.send(None);
    };
    std::thread::spawn(replay);
    let mut last = PathBuf::new();
    loop {
        match begins.recv_timeout(LIMIT) {
            Ok(Some(file)) => last = file,
            Ok(None) => return,
            Err(RecvTimeoutError::Timeout) => panic!("{} does not end", last.display()),
            Err(RecvTimeoutError::Disconnected) => panic!("{} breaks the check", last.display()),
        }
    }
}

/// In the order of their names; none if there is no such folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    files
}

/// Bytes that decide what a check does next; zeros once they are used up.
struct Dice<'a>(&'a [u8]);

impl Dice<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Less than `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }
}
