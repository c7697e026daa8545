//! R17: an answer that was lost between the server and us, in every way in which it can be lost.

use std::thread;
use std::time::Duration;

use world::http::{Answer, Request};
use world::wait;

use crate::stage::{LONG, Stage, pair};

/// Writes `key` on a thread of its own, does `meanwhile`, and returns the answer.
pub(crate) fn put_while(
    stage: &mut Stage,
    key: &str,
    value: &str,
    meanwhile: impl FnOnce(&mut Stage),
) -> Answer {
    let mut link = stage.api().connect();
    let path = format!("/api/v1/write/{key}");
    thread::scope(|scope| {
        let put = scope.spawn(|| link.call(Request::put(&path, value.as_bytes())).unwrap());
        meanwhile(stage);
        put.join().unwrap()
    })
}

pub(crate) fn settled(stage: &Stage, outcome: &str) -> f64 {
    stage.api().metric(&format!("albireo_api_settled_total{{service=\"posts\",outcome=\"{outcome}\"}}"))
}

#[test]
fn applied_at_the_same_process() {
    let mut stage = Stage::new(1);
    stage.proxies[0].swallow_replies();
    let answer = put_while(&mut stage, "a", "1", |stage| {
        stage.wait_stored(0, "a", "1");
        stage.proxies[0].pass();
        stage.proxies[0].cut();
    });
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(pair(&answer), (stage.addr(0).to_string(), 1));
    assert_eq!((settled(&stage, "applied"), settled(&stage, "not_applied")), (1.0, 0.0));
    // One batch and one barrier: it was not sent again.
    assert_eq!(stage.redis[0].cmd(&["GET", "albireo:tick"]).number(), 2);
}

/// Somebody wrote to our own counter: that must not keep anything from being settled.
#[test]
fn settled_with_a_tick_that_cannot_be_counted_up() {
    for tick in ["9223372036854775807", "a word"] {
        let mut stage = Stage::new(1);
        assert_eq!(stage.redis[0].cmd(&["SET", "albireo:tick", tick]).text(), "OK");
        stage.proxies[0].swallow_replies();
        let answer = put_while(&mut stage, "a", "1", |stage| {
            stage.wait_stored(0, "a", "1");
            stage.proxies[0].pass();
            stage.proxies[0].cut();
        });
        assert_eq!(answer.status, 200, "{tick}: {answer:?}");
        assert_eq!(stage.redis[0].cmd(&["GET", "albireo:tick"]).text(), "1");
    }
}

#[test]
fn not_applied_at_the_same_process_and_never_will_be() {
    let mut stage = Stage::new(2);
    stage.proxies[0].hold_requests();
    let mut held_back = None;
    let answer = put_while(&mut stage, "a", "1", |stage| {
        stage.proxies[0].wait_held("EVALSHA");
        held_back = Some(stage.proxies[0].cut_clients());
        stage.proxies[0].pass();
    });
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!((settled(&stage, "applied"), settled(&stage, "not_applied")), (0.0, 1.0));
    // What was held arrives after all, and would show if its connection were not cut at the server.
    assert_eq!(stage.redis[0].cmd(&["SET", "k:a", "2"]).text(), "OK");
    held_back.unwrap().arrive();
    wait::never("the old request is executed", Duration::from_millis(300), || {
        let stored = stage.stored(0, "a");
        wait::holds(stored.as_deref() == Some("2"), || format!("{stored:?}"))
    });
}

/// Writes a = 1, which is applied and replicated; then the primary dies without an answer, and another one takes over.
fn put_while_the_primary_dies(stage: &mut Stage) -> Answer {
    stage.proxies[0].swallow_replies();
    put_while(stage, "a", "1", |stage| {
        stage.wait_stored(1, "a", "1");
        stage.redis[0].kill();
        stage.decide(1, &[2]);
        stage.carry_out();
    })
}

#[test]
fn applied_and_replicated_before_the_primary_died() {
    let mut stage = Stage::new(3);
    let answer = put_while_the_primary_dies(&mut stage);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(pair(&answer), (stage.addr(1).to_string(), 2));
    assert_eq!((settled(&stage, "applied"), settled(&stage, "not_applied")), (1.0, 0.0));
    assert_eq!(stage.stored(1, "a").as_deref(), Some("1"));
}

/// The connections of the API at a server, by the numbers that the server gives them.
fn connections(stage: &Stage, server: usize) -> Vec<String> {
    let list = stage.redis[server].cmd(&["CLIENT", "LIST"]).text().to_owned();
    let ours = list.lines().filter(|line| line.contains(" name=albireo-api "));
    ours.filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect()
}

/// A server that was just promoted has its replicas to greet, which over TLS takes it milliseconds; nobody else comes anew.
#[test]
fn what_the_old_primary_left_open_is_settled_over_a_connection_that_was_there_before() {
    let mut stage = Stage::new(3);
    let mut before = Vec::new();
    wait::until("two lanes for reads, one for writes, and one to settle", LONG, || {
        before = connections(&stage, 1);
        wait::holds(before.len() == 4, || format!("{before:?}"))
    });
    let answer = put_while_the_primary_dies(&mut stage);
    assert_eq!((answer.status, settled(&stage, "applied")), (200, 1.0), "{answer:?}");
    assert_eq!(connections(&stage, 1), before);
}

#[test]
fn not_applied_before_the_primary_died() {
    let mut stage = Stage::new(3);
    stage.wait_markers();
    stage.proxies[0].hold_requests();
    let answer = put_while(&mut stage, "a", "1", |stage| {
        stage.proxies[0].wait_held("EVALSHA");
        stage.redis[0].kill();
        stage.decide(1, &[2]);
        stage.carry_out();
    });
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(pair(&answer), (stage.addr(1).to_string(), 2));
    // The marker was set at the old primary when its connection opened, and has come along.
    assert_eq!((settled(&stage, "applied"), settled(&stage, "not_applied")), (0.0, 1.0));
    stage.wait_stored(2, "a", "1");
}

#[test]
fn no_without_the_confirmation_of_every_replica_in_sync() {
    let mut stage = Stage::with(3, |ini| ini.set("api", "deadline_ms", 15_000));
    stage.proxies[0].hold_requests();
    let answer = put_while(&mut stage, "a", "1", |stage| {
        stage.proxies[0].wait_held("EVALSHA");
        stage.redis[2].pause();
        stage.proxies[0].pass();
        stage.proxies[0].cut();
        // Reads go on; the write waits, since replica 2 has not confirmed that the first attempt will not come.
        wait::never("an unconfirmed no", Duration::from_millis(500), || {
            let not_applied = settled(stage, "not_applied");
            wait::holds(not_applied == 0.0 && stage.stored(0, "a").is_none(), || "sent again".to_owned())
        });
        assert_eq!(stage.api().get("/api/v1/get/b").status, 404);
        // Without it in the set nobody needs its word.
        stage.change_set(&[1]);
        stage.stamp(0);
    });
    stage.redis[2].resume();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(pair(&answer), (stage.addr(0).to_string(), 2));
    assert_eq!(settled(&stage, "not_applied"), 1.0);
}

#[test]
fn a_missing_marker_is_not_a_no() {
    let mut stage = Stage::new(1);
    stage.proxies[0].hold_requests();
    let answer = put_while(&mut stage, "a", "1", |stage| {
        stage.proxies[0].wait_held("EVALSHA");
        let markers = stage.redis[0].cmd(&["KEYS", "albireo:api:*"]);
        assert!(!markers.list().is_empty());
        for marker in markers.list() {
            stage.redis[0].cmd(&["DEL", marker.text()]);
        }
        stage.proxies[0].pass();
        stage.proxies[0].cut();
    });
    assert_eq!(answer.status, 504, "{answer:?}");
    assert_eq!(answer.json()["error"]["code"], "indeterminate");
    assert_eq!(answer.header("retry-after"), None);
    assert_eq!(settled(&stage, "unknown"), 1.0);
    assert_eq!(stage.stored(0, "a"), None, "it was not sent again");
    assert_eq!(stage.api().put("b", "2").status, 200);
}

#[test]
fn without_the_right_to_cut_a_connection_nothing_is_said() {
    let mut stage = Stage::new(1);
    // The user is the default one; taking the right away stands for an operator who did not give it.
    assert_eq!(stage.redis[0].cmd(&["ACL", "SETUSER", "default", "-client|kill"]).text(), "OK");
    stage.proxies[0].hold_requests();
    let answer = put_while(&mut stage, "a", "1", |stage| {
        stage.proxies[0].wait_held("EVALSHA");
        stage.proxies[0].pass();
        stage.proxies[0].cut();
    });
    assert_eq!(answer.status, 504, "{answer:?}");
    assert_eq!(settled(&stage, "unknown"), 1.0);
}

#[test]
fn an_answer_that_cannot_be_settled_within_the_deadline() {
    let mut stage = Stage::with(2, |ini| ini.set("api", "deadline_ms", 600));
    stage.proxies[0].hold_requests();
    let answer = put_while(&mut stage, "a", "1", |stage| {
        stage.proxies[0].wait_held("EVALSHA");
        stage.redis[0].kill();
    });
    assert_eq!(answer.status, 504, "{answer:?}");
    // What came later was certainly never sent.
    let answer = stage.api().put("b", "1");
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.header("retry-after"), Some("1"));
    // And neither appears by itself when there is a primary again.
    stage.decide(1, &[]);
    stage.carry_out();
    wait::until("writes go on", LONG, || {
        let answer = stage.api().put("c", "1");
        wait::holds(answer.status == 200, || format!("{answer:?}"))
    });
    assert_eq!((stage.stored(1, "a"), stage.stored(1, "b")), (None, None));
}

#[test]
fn by_path_alone_a_lost_answer_stays_open() {
    let mut stage = Stage::without_api(1);
    stage.start_api(|ini| ini);
    assert_eq!(stage.api().put("a", "1").status, 200);
    stage.proxies[0].hold_requests();
    let answer = put_while(&mut stage, "a", "2", |stage| {
        stage.proxies[0].wait_held("SET");
        stage.proxies[0].pass();
        stage.proxies[0].cut();
    });
    assert_eq!(answer.status, 504, "{answer:?}");
    wait::never("sent again", Duration::from_millis(200), || {
        wait::holds(stage.stored(0, "a").as_deref() == Some("1"), || "it was".to_owned())
    });
}
