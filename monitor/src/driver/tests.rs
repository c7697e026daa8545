//! The driver without servers: nobody answers at the addresses that it is given, and inputs are handed to it one by
//! one.

use std::io::Write;
use std::sync::Mutex;

use failover::view::{Announced, Paused as Pausing};
use failover::{Fence, Observation, Outcome, Refused, Role};
use topology::zookeeper::SessionPhase;
use topology::{State, Topology};

use super::*;
use crate::hooks::Occasion;

const FILE: &str = "[zookeeper]\nhosts = 127.0.0.1:1\ndiscover = /all\n";

fn driver() -> Driver {
    driver_of(FILE)
}

fn driver_of(file: &str) -> Driver {
    let config = Config::parse(file.as_bytes(), "m.ini", [], &|_| Err("none".into())).unwrap();
    let store = Store::open(config.store_options());
    // What the driver's own tasks send goes nowhere: only the test hands something in.
    let (inputs, _) = mpsc::unbounded_channel();
    let record = MonitorRecord {
        instance: "1".into(),
        host: "here".into(),
        admin: None,
        beat: 0,
        role: None,
        version: None,
        process: None,
        sentinel: None,
    };
    Driver::new(Arc::new(config), Clock::start(), store, inputs, None, record)
}

fn at(name: &str) -> Endpoint {
    format!("{name}:1").parse().unwrap()
}

fn topology(primary: &str) -> About {
    let topology = Topology { primary: at(primary), replicas: Vec::new() };
    About::Event(Event::Announced(Announced::Is(topology), 0))
}

fn id(driver: &Driver, name: &str) -> ServiceId {
    driver.services.get(name).unwrap().id.clone()
}

fn members(driver: &Driver, name: &str) -> Vec<Endpoint> {
    driver.services.get(name).unwrap().backends.keys().cloned().collect()
}

/// Part of a heartbeat.
fn tell_what_lasts(driver: &mut Driver) {
    let unsettled = driver.unsettled();
    driver.tell_what_lasts(&unsettled);
}

/// What the log says meanwhile.
fn log_of(work: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let to = lines.clone();
    let log = tracing_subscriber::fmt().with_writer(move || to.clone()).with_ansi(false).finish();
    tracing::subscriber::with_default(log, work);
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn what_was_under_way_for_a_removed_service_does_not_reach_its_successor() {
    let mut driver = driver();
    driver.take(Input::Discovered(vec!["posts".into()]));
    let first = id(&driver, "posts");
    driver.take(Input::Service(first.clone(), topology("a")));
    assert_eq!(members(&driver, "posts"), [at("a")]);
    driver.others = vec!["other".into()];
    driver.take(Input::Service(first.clone(), About::Opinion("other".into(), Some([at("a")].into()))));

    driver.take(Input::Discovered(Vec::new()));
    assert_eq!(driver.services.count(), 0);
    assert!(driver.opinions.is_empty(), "what was thought of it goes with it");
    driver.take(Input::Discovered(vec!["posts".into()]));
    let second = id(&driver, "posts");
    assert_ne!(first, second);

    let opinion = || About::Opinion("other".into(), Some(BTreeSet::new()));
    for late in [
        topology("a"),
        About::Event(Event::State(failover::Stored::Is(record("a")), 3)),
        About::Words(at("a"), "NOAUTH".into()),
        opinion(),
    ] {
        driver.take(Input::Service(first.clone(), late));
    }
    let service = driver.services.get("posts").unwrap();
    assert_eq!(members(&driver, "posts"), [], "the first one's server is none of the second's");
    assert!(service.group.view().state().is_none() && service.words.is_empty() && driver.opinions.is_empty());
    driver.services.get_mut("posts").unwrap().writes_opinion = true;
    driver.take(Input::Service(first, About::OpinionWritten(true)));
    assert!(
        driver.services.get("posts").unwrap().writes_opinion,
        "the first one's opinion was written, not this one's"
    );

    driver.take(Input::Service(second.clone(), topology("b")));
    assert_eq!(members(&driver, "posts"), [at("b")]);
    driver.take(Input::Service(second, opinion()));
    assert_eq!(driver.opinions.len(), 1);
}

fn record(primary: &str) -> State {
    let json = format!(
        r#"{{"epoch":2,"promoted":1,"primary":{{"addr":"{primary}:1","run_id":"r"}},"in_sync":[],"min_in_sync":0,
        "members":["{primary}:1"],"path_version":0,"phase":"serving","leader":"m","reason":"test"}}"#
    );
    State::from_json(json.as_bytes()).unwrap()
}

#[tokio::test]
async fn what_goes_on_for_long_is_told_once() {
    let mut driver = driver();
    driver.take(Input::Discovered(vec!["posts".into()]));
    let id = id(&driver, "posts");
    driver.take(Input::Service(id.clone(), topology("a")));
    let refused = |path: &str| PublishError::Refused { path: path.into(), why: "NoAuth".into() };
    let log = log_of(|| {
        for version in 0..100 {
            for about in [
                About::NotPublished(version, refused("/x")),
                About::NotPublished(
                    version,
                    PublishError::Superseded { path: "/x".into(), expected: version as i32 },
                ),
                About::Event(Event::Ordered(at("a"), Time::ZERO, Outcome::Refused(Refused::OtherProcess))),
                About::Event(Event::Ordered(
                    at("a"),
                    Time::ZERO,
                    Outcome::Rejected("REPLICAOF: NOPERM".into()),
                )),
                About::Event(Event::Ordered(at("a"), Time::ZERO, Outcome::Deposed(version))),
                About::Event(Event::Ordered(at("a"), Time::ZERO, Outcome::Refused(Refused::HoldsData))),
                About::Words(at("a"), "LOADING".into()),
            ] {
                driver.take(Input::Service(id.clone(), about));
            }
            // It answers in between, so that the next refusal is a new one.
            driver.services.get_mut("posts").unwrap().words.clear();
        }
    });
    let lines: Vec<&str> = log.lines().filter(|line| !line.contains("DEBUG")).collect();
    assert_eq!(lines.len(), 7, "{log}");
    for (words, level) in [
        ("not published: /x is refused: NoAuth", "WARN"),
        ("not published: /x is not at version 0 any more", "WARN"),
        ("a:1 was left alone: another process answers there", "INFO"),
        ("a:1 refused REPLICAOF: NOPERM", "WARN"),
        ("a:1 carries epoch 0", "WARN"),
        ("a:1 was left alone: it is a primary with data of its own", "WARN"),
        ("a:1 answers: LOADING", "WARN"),
    ] {
        let found = lines.iter().filter(|line| line.contains(words) && line.contains(level)).count();
        assert_eq!(found, 1, "{words}: {log}");
    }
}

#[tokio::test]
async fn a_server_that_goes_and_comes_is_told() {
    let mut driver = driver();
    driver.take(Input::Discovered(vec!["posts".into()]));
    let id = id(&driver, "posts");
    driver.take(Input::Service(id.clone(), topology("a")));
    let observation = failover::Observation {
        run_id: "r".into(),
        read_only: false,
        role: failover::Role::Primary { replicas: Vec::new() },
        replid: "x".into(),
        offset: 0,
        fence: failover::Fence::Absent,
        shows_as: "a:1".into(),
        tick: None,
        empty: false,
        credential: None,
    };
    let log = log_of(|| {
        for _ in 0..20 {
            for event in [
                Event::Opened(at("a")),
                Event::Seen(at("a"), driver.now(), observation.clone().into()),
                Event::Closed(at("a")),
                Event::ConnectionRefused(at("a")),
            ] {
                driver.take(Input::Service(id.clone(), About::Event(event)));
                tell_what_lasts(&mut driver);
            }
        }
        driver.take(Input::Service(id.clone(), About::Event(Event::Opened(at("a")))));
        let seen = Event::Seen(at("a"), driver.now(), observation.clone().into());
        driver.take(Input::Service(id.clone(), About::Event(seen)));
        tell_what_lasts(&mut driver);
        let login = About::Event(Event::Troubled(at("a"), failover::Trouble::Login));
        driver.take(Input::Service(id.clone(), login));
        driver.take(Input::Service(id.clone(), About::Words(at("a"), "WRONGPASS bad".into())));
        tell_what_lasts(&mut driver);
    });
    let lines: Vec<&str> = log.lines().filter(|line| !line.contains("DEBUG")).collect();
    let told = |words: &str| lines.iter().filter(|line| line.contains(words)).count();
    assert_eq!(told("a:1 is down: connections are refused"), 1, "{log}");
    assert_eq!(told("a:1 answers again"), 1, "{log}");
    assert_eq!(told("a:1 answers: WRONGPASS bad (see [redis] username, password)"), 1, "{log}");
    assert_eq!(lines.len(), 3, "{log}");
}

#[tokio::test]
async fn a_broken_znode_is_counted_once_per_version() {
    let mut driver = driver();
    driver.take(Input::Discovered(vec!["posts".into()]));
    let id = id(&driver, "posts");
    let log = log_of(|| {
        for version in [4, 4, 5, 5] {
            let broken = Event::Announced(Announced::Broken("not JSON".into()), version);
            driver.take(Input::Service(id.clone(), About::Event(broken)));
        }
    });
    assert_eq!(log.matches("/all/posts holds no topology: not JSON").count(), 1, "{log}");
    driver.measure();
    assert!(driver.metrics.text().contains("albireo_znode_damaged_total{service=\"posts\"} 2"));
}

#[tokio::test]
async fn a_name_that_is_taken_is_told_and_counted_once() {
    let mut driver = driver();
    driver.add_service("/configured/posts".parse().unwrap(), false);
    let log = log_of(|| {
        for names in [vec!["posts"], vec!["posts", "users"], vec!["posts"]] {
            driver.take(Input::Discovered(names.into_iter().map(str::to_owned).collect()));
        }
    });
    assert_eq!(log.matches("service /all/posts is ignored").count(), 1, "{log}");
    assert!(driver.metrics.text().contains("albireo_services_ignored_total 1"));
    driver.take(Input::Discovered(Vec::new()));
    driver.take(Input::Discovered(vec!["posts".into()]));
    assert!(driver.metrics.text().contains("albireo_services_ignored_total 2"), "it was away meanwhile");
}

#[tokio::test]
async fn a_name_is_registered_by_one_task_per_session() {
    let mut driver = driver();
    let begun: Vec<bool> = [1, 1, 2, 2].map(|generation| driver.begins_to_register(generation)).into();
    assert_eq!(begun, [true, false, true, false], "a session may be connected, cut and connected again");
    driver.registered = Some(2);
    driver.take(Input::NameTaken(driver.record.clone()));
    assert!(driver.name_taken.is_none(), "said before the name was ours");
}

#[tokio::test]
async fn the_wait_for_a_taken_name_begins_anew_with_the_store() {
    let mut driver = driver();
    let session = |phase| Input::Session(Session { generation: 1, phase, since: std::time::Instant::now() });
    driver.take(session(SessionPhase::Connected));
    driver.take(Input::NameTaken(driver.record.clone()));
    let (_, since) = driver.name_taken.clone().expect("a wait that began");
    driver.take(Input::NameTaken(driver.record.clone()));
    assert_eq!(driver.name_taken.as_ref().map(|(_, since)| *since), Some(since), "one wait");
    driver.take(session(SessionPhase::Disconnected));
    assert!(driver.name_taken.is_none(), "the predecessor's session has its whole time again");
}

#[tokio::test]
async fn status_is_the_contract_s() {
    let mut driver = driver();
    driver.take(Input::Discovered(vec!["posts".into()]));
    let id = id(&driver, "posts");
    let keys = |driver: &Driver| {
        let status: serde_json::Value = serde_json::from_str(&driver.status()).expect("JSON");
        let service = status["services"][0].clone();
        ["primary", "epoch", "durability", "source", "age_ms"].map(|key| service[key].clone())
    };
    use serde_json::json;
    assert_eq!(keys(&driver), [json!(null), json!(0), json!(null), json!("none"), json!(null)]);
    driver.take(Input::Service(id.clone(), topology("a")));
    let session = |phase| Session { generation: 1, phase, since: std::time::Instant::now() };
    driver.take(Input::Session(session(SessionPhase::Connected)));
    assert_eq!(keys(&driver), [json!("a:1"), json!(0), json!("async"), json!("path"), json!(0)]);
    driver.take(Input::Service(id, About::Event(Event::State(failover::Stored::Is(record("a")), 3))));
    assert_eq!(keys(&driver), [json!("a:1"), json!(2), json!("sync"), json!("state"), json!(0)]);
    driver.take(Input::Session(session(SessionPhase::Disconnected)));
    let lost = driver.store_lost;
    tokio::time::sleep(Duration::from_millis(20)).await;
    driver.take(Input::Session(session(SessionPhase::Expired)));
    driver.take(Input::Session(session(SessionPhase::Connecting)));
    assert_eq!(driver.store_lost, lost, "it is as old as before");
    assert!(keys(&driver)[4].as_u64().is_some_and(|age| age >= 20), "{:?}", keys(&driver));
    driver.take(Input::Session(session(SessionPhase::Connected)));
    assert_eq!(keys(&driver)[4], json!(0));
}

/// Two operators paused it; which of the two is told as the one who did makes no difference.
#[tokio::test]
async fn a_service_is_paused_whoever_paused_it() {
    let mut driver = driver();
    driver.take(Input::Discovered(vec!["posts".into()]));
    let id = id(&driver, "posts");
    driver.take(Input::Service(id.clone(), topology("a")));
    let paused = |driver: &Driver| driver.services.get("posts").unwrap().group.view().paused;
    let by = |who: &str| Some(PausedRecord { since_ms: Some(1), by: Some(who.into()) });
    driver.take(Input::Service(id.clone(), About::Paused(by("one"))));
    driver.group("posts", Event::Reign(Some(1)));
    assert_eq!(paused(&driver), Pausing::Unread);
    driver.take(Input::Service(id.clone(), About::PausedAgain(None)));
    assert_eq!(paused(&driver), Pausing::Unread, "what is followed says otherwise");
    driver.take(Input::Service(id, About::PausedAgain(by("other"))));
    assert_eq!(paused(&driver), Pausing::Yes);
}

/// Who has more inputs than it can take in may not judge silence, and says so once that lasts.
#[tokio::test]
async fn inputs_without_end_are_a_stall() {
    let mut driver = driver();
    let told = |driver: &Driver| (driver.metrics.stalls.get(), driver.stood_still.is_some());
    assert!(driver.keeps_up(false));
    let begun = driver.now();
    assert!(!driver.keeps_up(true), "an answer may wait among them");
    assert!(driver.keeps_up(false), "it was taken in");
    assert!(!driver.keeps_up(true));
    assert_eq!(told(&driver), (0, false));

    let stall = driver.stall();
    while !driver.keeps_up(true) {
        assert!(driver.now() < begun + Duration::from_secs(20), "never");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(driver.now() >= begun + stall, "not before it was long");
    assert_eq!(told(&driver), (1, true), "all silence is measured anew from here, so that it may be judged");
    assert!(!driver.keeps_up(true), "and so on");
}

fn observation() -> Observation {
    Observation {
        run_id: "r".into(),
        role: Role::Primary { replicas: Vec::new() },
        replid: "h".into(),
        offset: 1,
        fence: Fence::Absent,
        shows_as: "a:1".into(),
        tick: None,
        empty: false,
        credential: None,
        read_only: false,
    }
}

/// A server may be gone before the first heartbeat after it answered.
#[tokio::test]
async fn hooks_hear_of_the_death_of_whoever_has_answered() {
    let mut driver = driver();
    driver.take(Input::Discovered(vec!["posts".into()]));
    let (id, now) = (id(&driver, "posts"), driver.now());
    driver.take(Input::Service(id.clone(), topology("a")));
    driver.reign = Some(1);
    let refused = |driver: &mut Driver| {
        for event in [Event::Closed(at("a")), Event::ConnectionRefused(at("a"))] {
            driver.take(Input::Service(id.clone(), About::Event(event)));
        }
        let unsettled = driver.unsettled();
        driver.hook_news(&unsettled).into_iter().map(|(_, occasion, _)| occasion).collect::<Vec<_>>()
    };
    assert_eq!(refused(&mut driver), [], "it never answered");
    for event in [Event::Opened(at("a")), Event::Seen(at("a"), now, observation().into())] {
        driver.take(Input::Service(id.clone(), About::Event(event)));
    }
    assert_eq!(refused(&mut driver), [Occasion::Down]);
    assert_eq!(refused(&mut driver), [], "once");
}

/// A driver of the service `posts` with the one server a, which has answered: what it said, and when that was heard.
fn answered(file: &str) -> (Driver, Arc<Observation>, Time) {
    let mut driver = driver_of(file);
    driver.take(Input::Discovered(vec!["posts".into()]));
    let id = id(&driver, "posts");
    driver.take(Input::Service(id.clone(), topology("a")));
    driver.take(Input::Service(id, About::Event(Event::Opened(at("a")))));
    let observation = Arc::new(observation());
    let heard = answers(&mut driver, &observation);
    (driver, observation, heard)
}

/// The server a says this once more; gives when that was heard.
fn answers(driver: &mut Driver, observation: &Arc<Observation>) -> Time {
    let seen = Event::Seen(at("a"), driver.now(), observation.clone());
    driver.take(Input::Service(id(driver, "posts"), About::Event(seen)));
    driver.services.get("posts").unwrap().group.view().backends[&at("a")].detector.last_byte()
}

/// What was told of a server that answers again is taken back at once, by whoever is asked for his opinion.
#[tokio::test]
async fn an_answer_of_one_that_was_told_to_be_out_of_reach_is_news() {
    let (mut driver, observation, heard) = answered(FILE);
    let seen = || Event::Seen(at("a"), heard, observation.clone());
    let rests = |driver: &mut Driver, told: &[&str]| {
        let service = driver.services.get_mut("posts").unwrap();
        service.opinion = Some(told.iter().map(|name| at(name)).collect());
        let speaks = service.group.view().reign.is_none();
        [seen(), Event::Tick].map(|event| service.is_at_rest(&event, speaks, heard))
    };
    assert_eq!(rests(&mut driver, &[]), [true, true]);
    assert_eq!(rests(&mut driver, &["a"]), [false, false]);
    assert_eq!(rests(&mut driver, &["b"]), [true, false], "it left, and what was said of it is taken back");
    driver.group("posts", Event::Reign(Some(1)));
    assert_eq!(rests(&mut driver, &["a"]), [true, true], "whoever leads has no opinion");
}

/// What is suspected is looked at by whoever is to be told of it, though it may be only late.
#[tokio::test]
async fn time_that_passes_is_no_news_while_every_server_answers() {
    let (driver, _, heard) = answered(FILE);
    let service = driver.services.get("posts").unwrap();
    let rests = [0, 199, 200, 450, 550]
        .map(|later| service.is_at_rest(&Event::Tick, false, heard + Duration::from_millis(later)));
    assert_eq!(rests, [true, true, false, false, false]);
}

/// It is awake, and stopped before it has looked at the clock for the silence of others.
#[tokio::test]
async fn a_loop_that_is_stopped_in_the_midst_of_a_turn_notices() {
    let mut driver = driver();
    driver.planned = driver.now() + Duration::from_millis(200);
    driver.notice_stall();
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(driver.metrics.stalls.get(), 0);
    driver.notice_stall();
    assert_eq!(driver.metrics.stalls.get(), 1, "later than a quarter of down_after_ms");
}

/// The loop is in time, the tasks that ask the servers are not.
#[tokio::test]
async fn answers_that_nobody_has_read_are_no_silence() {
    let (mut driver, ..) = answered(FILE);
    tokio::task::yield_now().await; // the probes begin
    driver.group("posts", Event::Tick);
    assert_eq!(driver.metrics.stalls.get(), 0);
    std::thread::sleep(Duration::from_millis(200));
    let silent = |driver: &Driver, now: Time| {
        let view = driver.services.get("posts").unwrap().group.view();
        view.backends.keys().filter(|addr| view.health(addr, now).gone_since().is_some()).count()
    };
    let then = driver.now() + Duration::from_millis(400);
    assert_eq!(silent(&driver, then), 1, "unless the group is told");
    driver.group("posts", Event::Tick);
    assert_eq!((driver.metrics.stalls.get(), silent(&driver, then)), (1, 0));
    assert_eq!(driver.stood_still.map(|(late, ..)| late > driver.stall()), Some(true));
    driver.group("posts", Event::Tick);
    assert_eq!(driver.metrics.stalls.get(), 1, "the same delay is told once");
}

/// Whoever is not named in an opinion passes for one that was reached.
#[tokio::test]
async fn nothing_is_said_of_a_service_before_all_of_it_is_known() {
    let mut driver = driver();
    driver.registered = Some(1);
    driver.take(Input::Discovered(vec!["posts".into()]));
    let id = id(&driver, "posts");
    let said = |driver: &mut Driver, event: Event| {
        driver.take(Input::Service(id.clone(), About::Event(event)));
        let unsettled = driver.unsettled();
        driver.write_opinions(&unsettled);
        driver.services.get("posts").unwrap().opinion.clone()
    };
    assert_eq!(said(&mut driver, Event::Store(true)), None, "its members are not known");
    let announced = Topology { primary: at("a"), replicas: Vec::new() };
    assert_eq!(said(&mut driver, Event::Announced(Announced::Is(announced), 0)), None, "nobody has tried");
    assert_eq!(said(&mut driver, Event::Tried(at("a"))), None);
    assert_eq!(said(&mut driver, Event::Opened(at("a"))), None, "the kernel does that");
    let asked = driver.now();
    assert_eq!(said(&mut driver, Event::Seen(at("a"), asked, observation().into())), Some(Vec::new()));
}

/// With few questions within `down_after_ms` the opinion is told of a server that nobody suspects yet.
#[tokio::test]
async fn the_opinion_is_told_in_time_with_any_ping_interval() {
    let (mut driver, _, heard) =
        answered(&format!("{FILE}[detector]\nping_interval_ms = 1000\ndown_after_ms = 2000\n"));
    let service = driver.services.get_mut("posts").unwrap();
    service.opinion = Some(Vec::new());
    let moments = [1599, 1600].map(|later| heard + Duration::from_millis(later));
    assert_eq!(moments.map(|now| service.is_at_rest(&Event::Tick, true, now)), [true, false]);
    assert!(service.take_unsettled(true, heard), "it has answered");
    assert_eq!(moments.map(|now| service.take_unsettled(true, now)), [false, true]);
}

/// That a server is well again may be all that there is to tell of it.
#[tokio::test]
async fn what_was_not_well_is_looked_at_once_more_when_it_is() {
    let (mut driver, observation, heard) = answered(FILE);
    let unsettled =
        |driver: &mut Driver, now: Time| driver.services.get_mut("posts").unwrap().take_unsettled(false, now);
    let looks = [0, 0, 200].map(|later| unsettled(&mut driver, heard + Duration::from_millis(later)));
    assert_eq!(looks, [true, false, true], "in the end it is late");
    let heard = answers(&mut driver, &observation);
    assert_eq!([unsettled(&mut driver, heard), unsettled(&mut driver, heard)], [true, false]);
}

/// After a stall the records of all services are read again. One that is as it was is only vouched for; another one counts.
#[tokio::test]
async fn a_record_that_is_read_again_is_the_present_one() {
    let mut driver = driver();
    driver.take(Input::Discovered(vec!["posts".into()]));
    let id = id(&driver, "posts");
    let read = |primary: &str, version: i32| {
        let epoch = version as u64;
        Event::State(failover::Stored::Is(State { epoch, promoted: epoch, ..record(primary) }), version)
    };
    driver.take(Input::Service(id.clone(), About::Event(read("a", 3))));
    let seen = |driver: &Driver| {
        let service = driver.services.get("posts").unwrap();
        let record =
            service.group.view().record.clone().map(|(state, version)| (state.primary.addr, version));
        (record.unwrap(), service.vouched.1)
    };
    driver.vouch_anew();
    let call = driver.services.get("posts").unwrap().vouched.0;
    assert_eq!(seen(&driver), ((at("a"), 3), false));
    driver.take(Input::Service(id.clone(), About::Vouched(call - 1, Some(read("b", 4)))));
    assert_eq!(seen(&driver), ((at("a"), 3), false), "read for an earlier call");
    driver.take(Input::Service(id.clone(), About::Vouched(call, Some(read("a", 3)))));
    assert_eq!(seen(&driver), ((at("a"), 3), true));
    driver.vouch_anew();
    driver.take(Input::Service(id, About::Vouched(call + 1, Some(read("b", 4)))));
    assert_eq!(seen(&driver), ((at("b"), 4), true));
}

/// What clients are told is looked at again in parts, which are all of it, and at once where it concerns all.
#[tokio::test]
async fn every_service_has_its_turn_on_the_board() {
    let mut driver = driver_of(&format!("{FILE}[sentinel]\nlisten = 127.0.0.1:1\n"));
    let names: Vec<String> = (0..9).map(|number| format!("s{number}")).collect();
    driver.take(Input::Discovered(names.clone()));
    for name in &names {
        let id = id(&driver, name);
        driver.take(Input::Service(id.clone(), About::Event(Event::Store(true))));
        driver.take(Input::Service(id, About::Event(Event::State(failover::Stored::Is(record("a")), 3))));
    }
    let vouch = |driver: &mut Driver, yes: bool| {
        driver.services.each().for_each(|service| service.vouched.1 = yes);
    };
    let reader = driver.told();
    let known = || reader.facts.borrow().services.values().filter(|service| service.known).count();
    vouch(&mut driver, true);
    assert_eq!(known(), 0, "nobody has looked");
    // The defaults: a heartbeat is half of `down_after_ms`.
    driver.tell_board_in_turn();
    assert!((1..names.len()).contains(&known()), "{}", known());
    driver.tell_board_in_turn();
    assert_eq!(known(), names.len());
    vouch(&mut driver, false);
    driver.mixed = true;
    driver.tell_board_in_turn();
    assert_eq!(known(), 0);
}

/// Each of tens of thousands of answers a second is handed over as one of these, and copied on its way. The largest thing that
/// stands in one as it is is a record.
#[test]
fn an_input_is_small() {
    let (input, record) = (size_of::<Input>(), size_of::<State>());
    assert!(input <= record + 64, "{input} bytes, a record has {record}");
}
