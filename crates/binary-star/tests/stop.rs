//! Stopping is clean. Alone in its program, since it counts the threads of the whole process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use binary_star::{Role, State};
use common::{Ports, Side, until};

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn a_stopped_pair_leaves_no_thread_and_no_port() {
    let before = threads();
    let ports = Ports::free();
    for round in 0..20 {
        let primary = Side::start(ports.options(Role::Primary));
        let backup = Side::start(ports.options(Role::Backup));
        primary.until_state(State::Active);
        assert!(threads() > before);
        primary.running.stop().unwrap();
        if round % 2 == 0 {
            drop(backup.running)
        } else {
            backup.running.stop().unwrap()
        }
        // Joined, but the kernel may still be taking the last one down.
        until("no thread is left", || threads() == before);
    }
}
