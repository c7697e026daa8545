//! Changes of the primary, with requests under way.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use world::http::Request;
use world::wait;

use crate::stage::{LONG, Stage, connect, pair};

/// Closed loops that never retry. Each has a key of its own and counts it up, so that a write that is lost or applied
/// a second time shows as a step back.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    done: AtomicU64,
}

impl Load {
    /// Runs 16 clients while `meanwhile` does, and returns what they saw go wrong.
    fn run(stage: &mut Stage, meanwhile: impl FnOnce(&mut Stage, &Self)) -> Vec<String> {
        let load = &Self::default();
        let api = stage.api().0.http();
        thread::scope(|scope| {
            let clients: Vec<_> = (0..16)
                .map(|client| scope.spawn(move || load.client(api, &format!("client{client}"))))
                .collect();
            // Also when it panics, or the clients would go on for ever.
            let stop = Stop(load);
            meanwhile(stage, load);
            drop(stop);
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
        })
    }

    fn client(&self, api: SocketAddr, key: &str) -> Vec<String> {
        // Every other client reads strongly.
        let query = if key.ends_with(['0', '2', '4', '6', '8']) { "?consistency=strong" } else { "" };
        let (write, read) = (format!("/api/v1/write/{key}"), format!("/api/v1/get/{key}{query}"));
        let (mut link, mut wrong, mut last) = (connect(api), Vec::new(), (String::new(), 0));
        for number in 1.. {
            let value = format!("{number}");
            let written = link.call(Request::put(&write, value.as_bytes())).unwrap();
            let found = link.call(Request::get(&read)).unwrap();
            for answer in [&written, &found] {
                if answer.status != 200 || answer.json()["value"] != value.as_str() {
                    wrong.push(format!("{key} = {number}: {} {}", answer.status, answer.text()));
                    continue;
                }
                let pair = pair(answer);
                if pair.1 < last.1 || (pair.1 == last.1 && pair.0 != last.0) {
                    wrong.push(format!("{key} = {number}: {pair:?} after {last:?}"));
                }
                last = pair;
            }
            self.done.fetch_add(1, Ordering::Relaxed);
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
        }
        wrong
    }

    fn wait_progress(&self, rounds: u64) {
        let from = self.done.load(Ordering::Relaxed);
        wait::until("clients go on", LONG, || {
            let done = self.done.load(Ordering::Relaxed) - from;
            wait::holds(done >= rounds, || format!("{done} rounds"))
        });
    }
}

struct Stop<'a>(&'a Load);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

fn offset(stage: &Stage, at: usize) -> u64 {
    stage.redis[at].info("slave_repl_offset").parse().unwrap()
}

#[test]
fn a_killed_primary_fails_no_request_and_nothing_is_applied_twice() {
    let mut stage = Stage::new(3);
    let wrong = Load::run(&mut stage, |stage, load| {
        load.wait_progress(500);
        stage.redis[0].kill();
        // Whichever takes over has all that was acknowledged: so the one that has less.
        let next = if offset(stage, 1) < offset(stage, 2) { 1 } else { 2 };
        stage.decide(next, &[3 - next]);
        stage.carry_out();
        load.wait_progress(500);
    });
    assert!(wrong.is_empty(), "{} wrong: {:?}", wrong.len(), &wrong[..wrong.len().min(5)]);
}

#[test]
fn with_async_durability_no_request_fails_either() {
    let mut stage = Stage::with(3, |ini| ini.set("api", "durability", "async"));
    let wrong = Load::run(&mut stage, |stage, load| {
        load.wait_progress(500);
        stage.redis[0].kill();
        // What the monitor does: the streams have ended, and the one that has most takes over.
        let next = if offset(stage, 1) < offset(stage, 2) { 2 } else { 1 };
        stage.decide(next, &[3 - next]);
        stage.carry_out();
        load.wait_progress(500);
    });
    // What was acknowledged in the last moment may be lost: the primary had told us, and not yet its replicas.
    let failed: Vec<_> = wrong.iter().filter(|line| !line.contains(": 200 ")).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn a_paused_primary_that_wakes_up_later_has_no_say() {
    let mut stage = Stage::new(3);
    let wrong = Load::run(&mut stage, |stage, load| {
        load.wait_progress(200);
        stage.redis[0].pause();
        stage.decide(1, &[2]);
        stage.carry_out();
        // What was under way there did not wait for its silence to become suspicious.
        stage.program().process().wait_for_line("not the primary any more while answers were due", LONG);
        load.wait_progress(200);
        // Its late replies, and whatever still waits in its sockets, must not matter.
        stage.redis[0].resume();
        load.wait_progress(500);
    });
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn replicas_that_leave_the_set_and_enter_it_fail_no_request() {
    let mut stage = Stage::new(3);
    let wrong = Load::run(&mut stage, |stage, load| {
        load.wait_progress(200);
        for _ in 0..3 {
            stage.redis[2].pause();
            thread::sleep(Duration::from_millis(50));
            stage.change_set_and_stamp(&[1]);
            load.wait_progress(200);
            stage.redis[2].resume();
            stage.change_set_and_stamp(&[1, 2]);
            load.wait_progress(200);
        }
    });
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn a_short_pause_is_only_a_wait() {
    let mut stage = Stage::new(2);
    let wrong = Load::run(&mut stage, |stage, load| {
        for _ in 0..3 {
            load.wait_progress(100);
            stage.redis[0].pause();
            thread::sleep(Duration::from_millis(300));
            stage.redis[0].resume();
        }
        load.wait_progress(100);
    });
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn a_pause_beyond_the_stall_limit_is_settled_at_the_same_process() {
    let mut stage = Stage::with(2, |ini| ini.set("api", "deadline_ms", 10_000));
    let wrong = Load::run(&mut stage, |stage, load| {
        load.wait_progress(100);
        stage.redis[0].pause();
        thread::sleep(Duration::from_millis(1800));
        stage.redis[0].resume();
        load.wait_progress(100);
    });
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn writes_wait_for_the_stamp_of_the_epoch() {
    let mut stage = Stage::new(2);
    stage.change_set(&[]);
    wait::until("the new epoch is seen", LONG, || {
        let epoch = stage.api().get("/api/v1/topology").json()["epoch"].clone();
        wait::holds(epoch == 2, || epoch.to_string())
    });
    let mut link = stage.api().connect();
    let answer = thread::scope(|scope| {
        let put = scope.spawn(|| link.call(Request::put("/api/v1/write/a", b"1")).unwrap());
        wait::never("a write under another epoch", Duration::from_millis(200), || {
            wait::holds(!put.is_finished() && stage.stored(0, "a").is_none(), || "it was applied".to_owned())
        });
        assert_eq!(stage.api().get("/api/v1/get/a").status, 404, "reads do not wait");
        stage.stamp(0);
        put.join().unwrap()
    });
    assert_eq!((answer.status, pair(&answer)), (200, (stage.addr(0).to_string(), 2)));
}

#[test]
fn a_fence_of_a_later_epoch_stops_writes_under_an_older_view() {
    let mut stage = Stage::with(1, |ini| ini.set("api", "deadline_ms", 500));
    stage.redis[0].cmd(&["SET", "albireo:fence", "9"]);
    let answer = stage.api().put("a", "1");
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.text().contains("FENCED"), "{answer:?}");
    assert_eq!(stage.stored(0, "a"), None);
    stage.epoch = 9;
    stage.publish("serving");
    wait::until("writes go on", LONG, || {
        let answer = stage.api().put("a", "1");
        wait::holds(answer.status == 200, || format!("{answer:?}"))
    });
}

#[test]
fn nothing_is_read_from_or_written_to_a_replica_before_its_promotion() {
    let mut stage = Stage::new(3);
    assert_eq!(stage.api().put("a", "1").status, 200);
    stage.wait_stored(1, "a", "1");
    stage.decide(1, &[2]);
    wait::until("the decision is seen", LONG, || {
        let epoch = stage.api().get("/api/v1/topology").json()["epoch"].clone();
        wait::holds(epoch == 2, || epoch.to_string())
    });
    let api = stage.api().0.http();
    let (read, written) = thread::scope(|scope| {
        let read = scope.spawn(|| connect(api).call(Request::get("/api/v1/get/a")).unwrap());
        let write = scope.spawn(|| connect(api).call(Request::put("/api/v1/write/a", b"2")).unwrap());
        // Even with a stamp that came along it is still a replica.
        stage.redis[0].cmd(&["SET", "albireo:fence", "2"]);
        wait::never("an answer by a replica", Duration::from_millis(300), || {
            wait::holds(!read.is_finished() && !write.is_finished(), || "it answered".to_owned())
        });
        stage.carry_out();
        (read.join().unwrap(), write.join().unwrap())
    });
    let expected = (stage.addr(1).to_string(), 2);
    assert_eq!((read.status, pair(&read)), (200, expected.clone()));
    assert_eq!((written.status, pair(&written)), (200, expected));
}

#[test]
fn a_restarted_primary_is_another_process() {
    let mut stage = Stage::with(1, |ini| ini.set("api", "deadline_ms", 500));
    assert_eq!(stage.api().put("a", "1").status, 200);
    stage.redis[0].restart_empty();
    stage.stamp(0);
    let read = stage.api().get("/api/v1/get/a");
    assert_eq!(read.status, 503, "an empty server must not say that the key is not there: {read:?}");
    assert_eq!(stage.api().put("a", "2").status, 503);
    let ready = stage.api().get("/readyz");
    assert_eq!(ready.status, 503);
    assert!(!ready.json()["reasons"].as_array().unwrap().is_empty());
}

#[test]
fn an_operator_clears_things_away() {
    let mut stage = Stage::new(2);
    let wrong = Load::run(&mut stage, |stage, load| {
        load.wait_progress(100);
        stage.redis[0].cmd(&["SCRIPT", "FLUSH"]);
        load.wait_progress(100);
        stage.redis[0].cmd(&["CLIENT", "KILL", "TYPE", "normal"]);
        load.wait_progress(100);
        stage.redis[0].cmd(&["DEL", "albireo:fence"]);
        thread::sleep(Duration::from_millis(50));
        stage.stamp(0);
        load.wait_progress(100);
    });
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn reads_from_secondaries_go_to_replicas_in_sync() {
    let mut stage = Stage::new(3);
    assert_eq!(stage.api().put("a", "1").status, 200);
    stage.wait_stored(1, "a", "1");
    stage.wait_stored(2, "a", "1");
    let reads =
        |stage: &Stage, at: usize| stage.redis[at].info("total_reads_processed").parse::<u64>().unwrap();
    let before: Vec<_> = (0..3).map(|at| reads(&stage, at)).collect();
    for _ in 0..100 {
        let answer = stage.api().get("/api/v1/get/a?from=secondary");
        assert_eq!((answer.status, pair(&answer)), (200, (stage.addr(0).to_string(), 1)));
    }
    for at in [1, 2] {
        assert!(reads(&stage, at) >= before[at] + 50, "server {at} took its turn");
    }
    // One that was restarted without its data is not what the record names.
    stage.redis[2].change(|settings| settings.replica_of(([127, 0, 0, 1], 1).into()));
    stage.redis[2].restart_empty();
    for _ in 0..50 {
        let answer = stage.api().get("/api/v1/get/a?from=secondary");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}
