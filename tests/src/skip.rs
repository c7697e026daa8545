//! How a test that cannot run says so. Every other test that did not run is a failure.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

/// Prints `skipped: NAME: why` and adds it to the list that `make test` shows at its end.
pub fn skip(name: &str, why: &str) {
    let line = format!("skipped: {name}: {why}\n");
    print!("{line}");
    let file = std::env::var_os("ALBIREO_SKIPPED").map_or_else(default_list, PathBuf::from);
    let added = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&file)
        .and_then(|mut f| f.write_all(line.as_bytes()));
    if let Err(e) = added {
        panic!("cannot note a skipped test in {}: {e}", file.display());
    }
}

fn default_list() -> PathBuf {
    crate::target_dir().join("skipped-tests")
}
