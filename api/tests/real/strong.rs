//! R8: a strong read is never stale.

use std::thread;
use std::time::Duration;

use world::http::Request;
use world::wait;

use crate::stage::{LONG, Stage, connect, pair};

const READ: &str = "/api/v1/get/a?consistency=strong";

#[test]
fn what_it_answers() {
    for durability in ["sync", "async"] {
        let stage = Stage::with(3, |ini| ini.set("api", "durability", durability));
        let missing = stage.api().get(READ);
        assert_eq!((missing.status, missing.text().as_str()), (404, r#"{"key":"a","value":null}"#));
        assert_eq!(stage.api().put("a", "1").status, 200);
        let read = stage.api().get(READ);
        assert_eq!((read.status, read.text().as_str()), (200, r#"{"key":"a","value":"1"}"#));
        assert_eq!(pair(&read), (stage.addr(0).to_string(), 1));
        assert_eq!(read.header("x-albireo-durability"), Some(durability));
        assert_eq!(read.header("x-albireo-copies"), None);
        stage.redis[0].cmd(&["LPUSH", "k:list", "x"]);
        assert_eq!(stage.api().get("/api/v1/get/list?consistency=strong").status, 409);
    }
}

#[test]
fn one_confirmation_vouches_for_all_that_wait() {
    let mut stage = Stage::with(2, |ini| ini.set("api", "deadline_ms", 15_000));
    assert_eq!(stage.api().put("a", "1").status, 200);
    let looks = stage.api().metric("albireo_api_looks_total");
    let http = stage.api().0.http();
    stage.redis[0].pause();
    thread::scope(|scope| {
        let reads: Vec<_> =
            (0..20).map(|_| scope.spawn(|| connect(http).call(Request::get(READ)).unwrap())).collect();
        wait::until("twenty wait", LONG, || {
            let waiting = stage.api().metric("albireo_api_in_flight");
            wait::holds(waiting == 20.0, || waiting.to_string())
        });
        stage.redis[0].resume();
        for read in reads {
            assert_eq!(read.join().unwrap().json()["value"], "1");
        }
    });
    // The first one went out alone, the others together; a busy machine may make it one or two more.
    let looks = stage.api().metric("albireo_api_looks_total") - looks;
    assert!((1.0..=4.0).contains(&looks), "{looks}");
}

/// Between a barrier and a read after it the primary may be deposed; the barrier then vouches for nothing.
#[test]
fn the_barrier_follows_the_reads_that_it_vouches_for() {
    let stage = Stage::with(2, |ini| ini.set("api", "deadline_ms", 15_000));
    assert_eq!(stage.api().put("a", "1").status, 200);
    let http = stage.api().0.http();
    stage.proxies[0].hold_requests();
    let (read, write) = thread::scope(|scope| {
        let read = scope.spawn(|| connect(http).call(Request::get(READ)).unwrap());
        stage.proxies[0].wait_held("fence");
        let held = stage.proxies[0].held("k:a");
        let at = |text: &str| held.find(text).unwrap_or_else(|| panic!("no {text} in {held}"));
        let (get, script, role, wait) = (at("k:a"), at("EVALSHA"), at("ROLE"), at("WAIT"));
        assert!(get < script && script < role && role < wait, "{held}");
        assert!(
            held.rfind("ROLE") > Some(wait) && held.rfind("albireo:fence") > held.rfind("ROLE"),
            "{held}"
        );
        let write = scope.spawn(|| connect(http).call(Request::put("/api/v1/write/b", b"1")).unwrap());
        stage.proxies[0].pass();
        stage.proxies[0].cut();
        (read.join().unwrap(), write.join().unwrap())
    });
    assert_eq!((read.status, write.status), (200, 200), "{read:?} {write:?}");
}

#[test]
fn unconfirmed_it_says_so_in_time() {
    for durability in ["sync", "async"] {
        let mut stage =
            Stage::with(3, |ini| ini.set("api", "durability", durability).set("api", "deadline_ms", 500));
        stage.redis[2].pause();
        let refused = stage.api().get(READ);
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{refused:?}");
        assert_eq!(refused.json()["error"]["code"], "not_confirmed");
        assert_eq!(stage.api().get("/api/v1/get/a").status, 404, "a plain one does not wait");
        // Without it in the set nobody needs its word.
        stage.change_set_and_stamp(&[1]);
        wait::until("strong reads go on", LONG, || {
            let answer = stage.api().get(READ);
            wait::holds(answer.status == 404 && pair(&answer).1 == 2, || format!("{answer:?}"))
        });
        stage.redis[2].resume();
    }
}

#[test]
fn a_deposed_primary_that_does_not_know_it_gives_no_strong_answer() {
    let mut stage = Stage::with(3, |ini| ini.set("api", "deadline_ms", 700));
    assert_eq!(stage.api().put("a", "old").status, 200);
    // What a partition makes of it: the others have gone on under epoch 2, and neither the old primary nor the API has
    // heard of that. The old primary still takes writes and answers everything.
    stage.attach(1, None);
    stage.attach(2, Some(1));
    stage.redis[1].cmd(&["SET", "albireo:fence", "2"]);
    stage.redis[1].cmd(&["SET", "k:a", "new"]);
    assert_eq!(stage.api().get("/api/v1/get/a").json()["value"], "old", "a plain read can be stale");
    for _ in 0..2 {
        let answer = stage.api().get(READ);
        assert_eq!(answer.status, 503, "{answer:?}");
    }
    // The same for a write: it is not acknowledged.
    assert_eq!(stage.api().put("b", "1").status, 504);
    stage.decide(1, &[2]);
    stage.publish("serving");
    wait::until("the new primary answers", LONG, || {
        let answer = stage.api().get(READ);
        wait::holds(answer.status == 200, || format!("{answer:?}"))
    });
    let answer = stage.api().get(READ);
    assert_eq!((answer.json()["value"].as_str(), pair(&answer).1), (Some("new"), 2));
}

#[test]
fn a_primary_that_wakes_up_deposed_gives_no_old_answer() {
    let mut stage = Stage::with(3, |ini| ini.set("api", "deadline_ms", 10_000));
    assert_eq!(stage.api().put("a", "old").status, 200);
    let http = stage.api().0.http();
    stage.redis[0].pause();
    let answer = thread::scope(|scope| {
        // It is on its way to the old primary, which would answer it when it wakes up.
        let read = scope.spawn(|| connect(http).call(Request::get(READ)).unwrap());
        wait::until("it waits", LONG, || {
            let waiting = stage.api().metric("albireo_api_in_flight");
            wait::holds(waiting == 1.0, || waiting.to_string())
        });
        stage.attach(1, None);
        stage.attach(2, Some(1));
        stage.redis[1].cmd(&["SET", "albireo:fence", "2"]);
        stage.redis[1].cmd(&["SET", "k:a", "new"]);
        stage.redis[0].resume();
        wait::never("an old answer", Duration::from_millis(300), || {
            wait::holds(!read.is_finished(), || "it answered".to_owned())
        });
        stage.decide(1, &[2]);
        stage.publish("serving");
        read.join().unwrap()
    });
    assert_eq!((answer.status, answer.json()["value"].as_str()), (200, Some("new")), "{answer:?}");
    assert_eq!(pair(&answer), (stage.addr(1).to_string(), 2));
}

#[test]
fn a_fence_that_is_ahead_of_us_gives_no_answer() {
    let mut stage = Stage::with(2, |ini| ini.set("api", "deadline_ms", 500));
    assert_eq!(stage.api().put("a", "1").status, 200);
    stage.redis[0].cmd(&["SET", "albireo:fence", "2"]);
    let refused = stage.api().get(READ);
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (503, Some("not_confirmed")));
    stage.change_set(&[1]);
    wait::until("it answers again", LONG, || {
        let answer = stage.api().get(READ);
        wait::holds(answer.status == 200 && pair(&answer).1 == 2, || format!("{answer:?}"))
    });
}

#[test]
fn by_path_alone_nobody_can_confirm_it() {
    let mut stage = Stage::without_api(2);
    stage.start_api(|ini| ini.set("api", "deadline_ms", 300));
    let written = stage.api().put("a", "1");
    assert_eq!((written.status, written.header("x-albireo-durability")), (200, Some("async")));
    assert_eq!(written.header("x-albireo-copies"), Some("0"));
    let refused = stage.api().get(READ);
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (503, Some("not_confirmed")));
    // With the first record it can be had, on the same connections.
    stage.stamp(0);
    stage.publish("serving");
    wait::until("it answers", LONG, || {
        let answer = stage.api().get(READ);
        wait::holds(answer.status == 200, || format!("{answer:?}"))
    });
}
