//! Temporary directories: below `TEST_WORK_DIR`, else below `target/`. ZooKeeper has every write on its disk before it answers, so
//! measurements need one; for whatever is right or wrong memory is the better place (`tests/run-tests`).
//!
//! Their names carry the process id, so that what a killed run left behind is removed by the next one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A directory that is removed when its last owner is dropped.
#[derive(Debug, Clone)]
pub struct WorkDir(Arc<Removed>);

#[derive(Debug)]
struct Removed(PathBuf);

impl WorkDir {
    /// A new, empty directory; `name` is for the person who looks at it.
    pub fn new(name: &str) -> Self {
        Self::below(&root(), name)
    }

    /// The same, always below `target/`: for what does not run from memory.
    pub fn on_disk(name: &str) -> Self {
        Self::below(&default_root(), name)
    }

    fn below(root: &Path, name: &str) -> Self {
        static CLEAN: Once = Once::new();
        CLEAN.call_once(remove_leftovers);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("{}-{number}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap_or_else(|e| panic!("cannot create {}: {e}", path.display()));
        Self(Arc::new(Removed(path)))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.0
    }

    /// A path inside.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
}

impl Drop for Removed {
    fn drop(&mut self) {
        // A child that has just been killed may still be writing; what stays is removed by the next run.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The directory that cargo builds into: the one above `debug/` or `release/` from which this very program runs.
pub fn target_dir() -> PathBuf {
    let profile = profile_dir();
    profile.parent().map_or_else(|| PathBuf::from("target"), Path::to_path_buf)
}

/// Where the built programs are: `target/debug` or `target/release`.
pub(crate) fn profile_dir() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_else(|e| panic!("cannot tell where this program is: {e}"));
    let dir = exe.parent().unwrap_or(Path::new("."));
    let below = ["deps", "examples"].iter().any(|name| dir.ends_with(name));
    (if below { dir.parent().unwrap_or(dir) } else { dir }).to_path_buf()
}

/// Removes every directory of this process; for an exit that runs no destructors.
pub(crate) fn remove_own() {
    let own = std::process::id();
    remove_where(|pid| pid == own);
}

/// The directory above all of them.
pub fn root() -> PathBuf {
    let given = std::env::var_os("TEST_WORK_DIR").filter(|given| !given.is_empty());
    // A directory of its own: what others have there is not ours to remove.
    given.map_or_else(default_root, |given| Path::new(&given).join("albireo-world"))
}

fn default_root() -> PathBuf {
    target_dir().join("world")
}

fn remove_leftovers() {
    remove_where(|pid| pid != std::process::id() && !Path::new(&format!("/proc/{pid}")).exists());
}

fn remove_where(matches: impl Fn(u32) -> bool) {
    let roots = [root(), default_root()];
    for entry in roots.iter().flat_map(fs::read_dir).flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.split('-').next()).and_then(|pid| pid.parse().ok());
        if pid.is_some_and(&matches) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
