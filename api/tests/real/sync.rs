//! R3, R6, R9: a write is acknowledged when every replica in sync has it, and not before.

use std::thread;
use std::time::Duration;

use world::http::Answer;
use world::wait;

use crate::settle::{put_while, settled};
use crate::stage::{LONG, Stage, pair};

/// Long enough for an answer that must not come.
const WHILE: Duration = Duration::from_millis(300);

fn acknowledged(answer: &Answer, stage: &Stage, copies: &str) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(pair(answer), (stage.addr(stage.primary).to_string(), stage.epoch));
    assert_eq!(answer.header("x-albireo-durability"), Some("sync"));
    assert_eq!(answer.header("x-albireo-copies"), Some(copies));
}

/// Writes, and looks for a while at the API's metrics for an acknowledgement that must not be there yet; then `allow`.
fn put_unconfirmed(stage: &mut Stage, allow: impl FnOnce(&mut Stage)) -> Answer {
    put_while(stage, "a", "1", |stage| {
        stage.wait_stored(stage.primary, "a", "1");
        never_acknowledged(stage);
        allow(stage);
    })
}

fn never_acknowledged(stage: &Stage) {
    wait::never("an acknowledgement", WHILE, || {
        let text = stage.api().get("/metrics").text();
        let good = text.contains("albireo_api_requests_total{route=\"write\",code=\"200\"}");
        wait::holds(!good, || "it was acknowledged".to_owned())
    });
}

#[test]
fn every_replica_in_sync_has_it_first() {
    let mut stage = Stage::new(3);
    stage.redis[2].pause();
    let answer = put_unconfirmed(&mut stage, |stage| {
        assert_eq!(stage.stored(1, "a").as_deref(), Some("1"), "one of two replicas is not enough");
        // Reads that need not wait do not stand behind it.
        assert_eq!(stage.api().get("/api/v1/get/a").status, 200);
        stage.redis[2].resume();
    });
    acknowledged(&answer, &stage, "2");
    assert_eq!(stage.stored(2, "a").as_deref(), Some("1"));
    assert!(stage.api().metric("albireo_api_looks_total") > 1.0, "it asked again");
    assert_eq!((settled(&stage, "applied"), settled(&stage, "not_applied")), (0.0, 0.0));
}

#[test]
fn what_waited_for_an_evicted_replica_is_settled_and_not_sent_again() {
    let mut stage = Stage::new(3);
    stage.redis[2].pause();
    let answer = put_unconfirmed(&mut stage, |stage| {
        // Would not stay, if the write came again.
        stage.redis[0].cmd(&["SET", "k:a", "2"]);
        stage.change_set_and_stamp(&[1]);
    });
    stage.redis[2].resume();
    acknowledged(&answer, &stage, "1");
    assert_eq!((settled(&stage, "applied"), settled(&stage, "not_applied")), (1.0, 0.0));
    assert_eq!(stage.stored(0, "a").as_deref(), Some("2"));
}

#[test]
fn a_replica_that_is_not_attached_is_waited_for() {
    let mut stage = Stage::new(3);
    stage.attach(2, None);
    let answer = put_unconfirmed(&mut stage, |stage| stage.attach(2, Some(0)));
    acknowledged(&answer, &stage, "2");
    assert_eq!(stage.stored(2, "a").as_deref(), Some("1"));
}

#[test]
fn a_stranger_stands_for_nobody() {
    let mut stage = Stage::new(2);
    let stranger = world::redis::Settings::default().replica_of(stage.redis[0].addr()).start();
    stage.wait_replicas(2);
    stage.attach(1, None);
    stage.wait_replicas(1);
    let answer = put_unconfirmed(&mut stage, |stage| {
        // By WAIT's number the write would be acknowledged.
        let mut link = stage.redis[0].connect().unwrap();
        link.call(&["SET", "x", "1"]).unwrap();
        assert_eq!(link.call(&["WAIT", "1", "1000"]).unwrap().number(), 1);
        stage.attach(1, Some(0));
    });
    acknowledged(&answer, &stage, "1");
    drop(stranger);
}

#[test]
fn a_fence_that_moves_before_the_confirmation() {
    let mut stage = Stage::new(2);
    stage.redis[1].pause();
    let answer = put_unconfirmed(&mut stage, |stage| {
        // The leader has stamped the next epoch; we have not seen its record yet.
        stage.redis[0].cmd(&["SET", "albireo:fence", "2"]);
        stage.redis[1].resume();
        never_acknowledged(stage);
        stage.change_set(&[1]);
    });
    acknowledged(&answer, &stage, "1");
    assert_eq!(stage.epoch, 2);
    assert_eq!((settled(&stage, "applied"), settled(&stage, "not_applied")), (1.0, 0.0));
}

#[test]
fn an_unblocked_wait_is_no_answer() {
    let mut stage = Stage::new(3);
    stage.redis[2].pause();
    let answer = put_unconfirmed(&mut stage, |stage| {
        assert_eq!(stage.stored(1, "a").as_deref(), Some("1"));
        // Detached as in R2: whoever is blocked there is let go with UNBLOCKED, and cut off.
        assert_eq!(stage.redis[0].cmd(&["REPLICAOF", "127.0.0.1", "0"]).text(), "OK");
        stage.program().process().wait_for_line("connection ended", LONG);
        never_acknowledged(stage);
        stage.decide(1, &[]);
        stage.carry_out();
    });
    stage.redis[2].resume();
    acknowledged(&answer, &stage, "0");
    assert_eq!((settled(&stage, "applied"), settled(&stage, "not_applied")), (1.0, 0.0));
}

#[test]
fn a_positive_answer_after_a_kill_needs_its_copies_too() {
    let mut stage = Stage::with(3, |ini| ini.set("api", "deadline_ms", 15_000));
    stage.proxies[0].swallow_replies();
    let answer = put_while(&mut stage, "a", "1", |stage| {
        stage.wait_stored(1, "a", "1");
        stage.redis[2].pause();
        stage.redis[0].kill();
        stage.decide(1, &[2]);
        stage.promote();
        never_acknowledged(stage);
        stage.redis[2].resume();
        stage.attach(2, Some(1));
    });
    acknowledged(&answer, &stage, "1");
    assert_eq!((settled(&stage, "applied"), settled(&stage, "not_applied")), (1.0, 0.0));
}

#[test]
fn with_fewer_than_min_in_sync_nothing_is_written() {
    let mut stage = Stage::with(2, |ini| ini.set("api", "deadline_ms", 2000));
    stage.min_in_sync = 1;
    stage.change_set_and_stamp(&[]);
    wait::until("the record is seen", LONG, || {
        let epoch = stage.api().get("/api/v1/topology").json()["epoch"].clone();
        wait::holds(epoch == 2, || epoch.to_string())
    });
    let refused = stage.api().put("a", "1");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{refused:?}");
    assert_eq!(refused.json()["error"]["code"], "not_enough_replicas");
    assert_eq!(stage.stored(0, "a"), None);
    assert_eq!(stage.api().get("/api/v1/get/a").status, 404, "reads go on");
    assert_eq!(stage.api().get("/api/v1/get/a?consistency=strong").status, 404, "strong ones, too");
    assert_eq!(stage.api().metric("albireo_api_ready{service=\"posts\"}"), 0.0);

    // Inside its deadline a write waits for the set to grow.
    let answer = put_while(&mut stage, "a", "2", |stage| {
        thread::sleep(Duration::from_millis(100));
        assert_eq!(stage.stored(0, "a"), None);
        stage.change_set_and_stamp(&[1]);
    });
    acknowledged(&answer, &stage, "1");
}

#[test]
fn what_was_sent_before_the_set_became_too_small_stays_open() {
    let mut stage = Stage::with(2, |ini| ini.set("api", "deadline_ms", 1000));
    stage.redis[1].pause();
    stage.min_in_sync = 1;
    let answer = put_unconfirmed(&mut stage, |stage| stage.change_set_and_stamp(&[]));
    stage.redis[1].resume();
    assert_eq!(answer.status, 504, "{answer:?}");
    assert_eq!(answer.json()["error"]["code"], "indeterminate");
    assert_eq!(stage.api().metric("albireo_api_indeterminate_total{service=\"posts\"}"), 1.0);
}

#[test]
fn without_the_right_to_ask_the_replicas_nothing_is_acknowledged() {
    let stage = Stage::with(2, |ini| ini.set("api", "deadline_ms", 500));
    // The user is the default one; taking the right away stands for an operator who did not give it.
    assert_eq!(stage.redis[0].cmd(&["ACL", "SETUSER", "default", "-wait"]).text(), "OK");
    let answer = stage.api().put("a", "1");
    assert_eq!(answer.status, 504, "{answer:?}");
    assert!(answer.text().contains("NOPERM"), "it says why: {answer:?}");
}

#[test]
fn alone_means_no_copies() {
    let stage = Stage::new(1);
    acknowledged(&stage.api().put("a", "1"), &stage, "0");
}

#[test]
fn async_waits_for_nobody() {
    let mut stage = Stage::with(2, |ini| ini.set("api", "durability", "async"));
    stage.min_in_sync = 2;
    stage.redis[1].pause();
    let answer = stage.api().put("a", "1");
    stage.redis[1].resume();
    assert_eq!((answer.status, pair(&answer)), (200, (stage.addr(0).to_string(), 1)));
    assert_eq!(answer.header("x-albireo-durability"), Some("async"));
    assert_eq!(answer.header("x-albireo-copies"), Some("0"));
    assert_eq!(stage.api().metric("albireo_api_looks_total"), 0.0);
    assert_eq!(stage.api().get("/api/v1/topology").json()["durability"], "async");
}
