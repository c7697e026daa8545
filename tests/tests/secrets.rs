//! No secret ever stands where it does not belong: unmistakable ones are planted wherever one may be, everything that talks
//! is made to talk, also about mistakes, and all that was said is searched.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use world::group::Group;
use world::http::Request;
use world::programs;
use world::redis::Settings;
use world::resp::Connection;
use world::secure::{SENTINEL_PASSWORD, SENTINEL_USER, Secure};
use world::{Host, Signal, WorkDir, wait};

const LIMIT: Duration = Duration::from_secs(20);
/// What somebody tries who does not know better: worth as much, for it may be a neighbour's.
const WRONG: &str = "planted-Quae0chu-wrong";
/// In the URL of the webhook.
const WEBHOOK: &str = "planted-aeTh7iej-webhook";

/// Something that was said, and where.
#[derive(Debug)]
struct Said {
    place: String,
    text: String,
}

#[derive(Debug, Default)]
struct All(Vec<Said>);

impl All {
    #[track_caller]
    fn add(&mut self, place: impl Into<String>, text: impl Into<String>) {
        let (place, text) = (place.into(), text.into());
        assert!(!text.is_empty(), "{place} says nothing, so nothing is known");
        self.0.push(Said { place, text });
    }

    /// Which secret stands where.
    fn leaks(&self, secrets: &[(String, String)]) -> BTreeSet<String> {
        let found = self.0.iter().flat_map(|said| {
            let here = secrets.iter().filter(|(_, secret)| said.text.contains(secret.as_str()));
            here.map(|(name, _)| format!("{name} stands in {}", said.place))
        });
        found.collect()
    }
}

/// Takes whatever comes and answers 200, 500 and nothing in turn.
fn receiver() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let Ok(mut stream) = stream else { continue };
            let _ = stream.read(&mut [0; 8192]);
            let status = ["200 OK", "500 No"].get(number % 3);
            let _ = status.map(|status| write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n"));
        }
    });
    addr
}

/// The first part of a stream that does not end.
#[track_caller]
fn events(at: SocketAddr) -> String {
    let mut stream = TcpStream::connect(at).expect("a connection");
    stream.set_read_timeout(Some(LIMIT)).expect("a time limit");
    stream.write_all(b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n").expect("a request");
    let mut text = String::new();
    let mut part = [0; 8192];
    // The first document is whole once the next event begins.
    while text.matches("event: ").count() < 2 {
        let length = stream.read(&mut part).expect("an event");
        assert!(length > 0, "the stream ended: {text}");
        text += &String::from_utf8_lossy(&part[..length]);
    }
    text
}

/// Every znode below this one.
fn znodes(group: &Group, path: &str, all: &mut All) {
    if let Some(znode) = group.zookeeper.get(path)
        && !znode.data.is_empty()
    {
        all.add(format!("znode {path}"), znode.text());
    }
    for child in group.zookeeper.children(path) {
        znodes(group, &format!("{}/{child}", path.trim_end_matches('/')), all);
    }
}

/// What the running programs say when they are asked as anybody may ask.
fn pages(group: &Group, all: &mut All) {
    for monitor in &group.monitors {
        let posts = "/services/posts";
        for page in [
            "/",
            "/services",
            posts,
            "/services/posts/history",
            "/services/posts/primary",
            "/peer/services",
            "/metrics",
            "/healthz",
            "/readyz",
            "/nodes/x/primary",
        ] {
            all.add(format!("{} {page}", monitor.name()), monitor.get(page).text());
        }
        all.add(format!("{} /events", monitor.name()), events(monitor.http()));
    }
    for api in &group.apis {
        for page in ["/api/v1/topology", "/metrics", "/healthz", "/readyz", "/api/v1/get/x", "/nothing"] {
            all.add(format!("{} {page}", api.name()), api.get(page).text());
        }
    }
}

fn processes(group: &mut Group, all: &mut All) {
    for program in group.monitors.iter_mut().chain(&mut group.apis) {
        let name = program.name().to_owned();
        all.add(format!("the log of {name}"), program.process().log());
        let line = std::fs::read_to_string(format!("/proc/{}/cmdline", program.process().id()));
        all.add(format!("the command line of {name}"), line.expect("a command line"));
    }
}

/// What the verbs print with this file.
fn verbs(file: &str, all: &mut All) {
    for words in [
        &["check", file][..],
        &["status", file],
        &["status", file, "--json"],
        &["history", file, "posts"],
        &["history", file, "posts", "--json"],
        &["switchover", file, "posts"],
        &["failover", file, "posts", "--to", "127.0.0.1:1"],
        &["pause", file, "posts"],
        &["resume", file, "posts"],
        &["remove", file, "posts", "127.0.0.1:1"],
    ] {
        let (code, said) = programs::run("monitor", words, LIMIT);
        all.add(format!("monitor {} ({code})", words.join(" ")), format!("{code} {said}"));
    }
}

/// Writes a file; its path.
fn written(dir: &WorkDir, name: &str, text: &str) -> String {
    let file = dir.join(name);
    std::fs::write(&file, text).expect("a file");
    file.display().to_string()
}

/// The same file with something wrong in it: what verbs and programs say of that.
fn wrong_values(group: &Group, secure: &Secure, all: &mut All) {
    let dir = WorkDir::new("wrong");
    let good = group.monitor_ini(0);
    let [other_ca, no_certificate] =
        ["other-ca.pem", "client.key"].map(|name| secure.certificates().text(name));
    let no_key = written(&dir, "no.key", WRONG);
    for (number, (section, key, value)) in [
        ("redis", "password", WRONG),
        ("redis", "username", "nobody"),
        ("zookeeper", "auth", &format!("albireo:{WRONG}")),
        ("admin", "token", WRONG),
        ("redis", "tls_ca", &other_ca),
        ("redis", "tls_cert", &no_certificate),
        ("redis", "tls_key", &no_key),
    ]
    .into_iter()
    .enumerate()
    {
        let file = written(&dir, &format!("{number}.ini"), &good.clone().set(section, key, value).text());
        verbs(&file, all);
        let seed = ["--config", &file, "--primary", "127.0.0.1:1"];
        let (code, said) = programs::run("zoo-setup", &seed, LIMIT);
        all.add(format!("zoo-setup with another [{section}] {key}"), format!("{code} {said}"));
    }
}

/// Files that are refused before anybody is asked.
fn refused_files(all: &mut All) {
    let dir = WorkDir::new("refused");
    for (number, line) in [
        format!("auth = {WRONG}"),
        format!("auht = a:{WRONG}"),
        format!("auth = a:{WRONG}\nauth = a:{WRONG}"),
        format!("auth {WRONG}"),
        format!("[redis]\npassword = {WRONG} ; and a comment"),
        format!("[redis]\npasswort = {WRONG}"),
        format!("[redis:127.0.0.1]\npassword = {WRONG}"),
        format!("[redis:127.0.0.1:1]\npassword = {WRONG}\npassword = {WRONG}"),
        format!("[admin]\ntoken = file:/nowhere\ntoken = {WRONG}"),
        format!("[sentinel]\npassword = {WRONG}"),
        format!("[api]\ntoken = {WRONG}\ntoken = {WRONG}"),
        format!("[hooks]\nwebhook = ftp://user:{WRONG}@127.0.0.1/x"),
        format!("[hooks]\nwebhook = http://127.0.0.1/{WRONG}\nwebhook = http://127.0.0.1/{WRONG}"),
        format!("[hooks]\nwebhok = http://127.0.0.1/{WRONG}"),
        format!("[hooks]\nwebhook = http://127.0.0.1/ {WRONG}"),
    ]
    .iter()
    .enumerate()
    {
        let text = format!("[zookeeper]\nhosts = 127.0.0.1:1\npath = /a/b\n{line}\n");
        let file = written(&dir, &format!("{number}.ini"), &text);
        for (program, words) in [("monitor", &["check", &file][..]), ("api", &[&file])] {
            let (code, said) = programs::run(program, words, LIMIT);
            assert_eq!(code, 2, "{program} takes {line}: {said}");
            all.add(format!("{program} of {line}"), said);
        }
    }
}

/// A server that knows no AUTH repeats the words that it was sent.
fn a_server_that_repeats(group: &Group, all: &mut All) {
    let parrot = Settings::default().line("rename-command AUTH \"\"").start();
    let path = "/parrots/polly";
    group.zookeeper.create(path, &format!(r#"{{"primary": "{}", "secondary": []}}"#, parrot.endpoint()));
    let ini = group.monitor_ini(0).set("zookeeper", "path", path).set("redis", "tls", "off");
    let ini = ["tls_ca", "tls_cert", "tls_key"].iter().fold(ini, |ini, key| ini.without("redis", key));
    let dir = WorkDir::new("parrot");
    let file = written(&dir, "monitor.ini", &ini.text());
    let (code, said) = programs::run("monitor", &["check", &file], LIMIT);
    assert!(code == 1 && said.contains("unknown command"), "{code}: {said}");
    all.add("monitor check at a server without AUTH", said);
}

/// People who do not know the secrets.
fn strangers(group: &Group, all: &mut All) {
    let wrong = format!("Bearer {WRONG}");
    let headers = [("authorization", wrong.as_str()), ("content-type", "application/json")];
    for monitor in &group.monitors {
        let request = Request { headers: &headers, ..Request::post("/services/posts/switchover", b"{}") };
        let answer = monitor.call(request).expect("an answer");
        assert_eq!(answer.status, 401);
        all.add("a POST with a wrong token", answer.text());
    }
    let request = Request { headers: &headers, ..Request::get("/api/v1/get/x") };
    let answer = group.apis[0].call(request).expect("an answer");
    assert_eq!(answer.status, 401);
    all.add("a GET with a wrong token", answer.text());
    let mut client =
        Connection::open(&Host::local(), group.sentinel_address(0), LIMIT).expect("a connection");
    for words in [
        &["AUTH", SENTINEL_USER, WRONG][..],
        &["AUTH", WRONG],
        &["SENTINEL", "masters"],
        &["AUTH", SENTINEL_USER, SENTINEL_PASSWORD],
        &["SENTINEL", "masters"],
        &["SENTINEL", "replicas", "posts"],
        &["SENTINEL", "sentinels", "posts"],
        &["INFO"],
        &["HELLO", "2"],
        &["CLIENT", "LIST"],
    ] {
        let reply = client.call(words).expect("a reply");
        all.add(format!("Sentinel {}", words[0]), format!("{reply:?}"));
    }
}

/// Another value for each secret, by a reload and back.
fn reload(group: &mut Group) {
    let file = group.monitors[0].file().to_owned();
    let good = std::fs::read_to_string(&file).expect("a file");
    let changed = group
        .monitor_ini(0)
        .set("redis", "password", WRONG)
        .set("zookeeper", "auth", format!("albireo:{WRONG}"))
        .set("admin", "token", WRONG)
        .set("sentinel", "password", WRONG)
        .set("hooks", "webhook", format!("http://127.0.0.1:1/{WRONG}"));
    for (text, told) in [
        (changed.text(), "[hooks] webhook"),
        (format!("{good}\n[redis]\npassword = {WRONG}\n"), "stands twice"),
    ] {
        group.monitors[0].write_file(&text);
        group.monitors[0].process().signal(Signal::Hup);
        group.monitors[0].process().wait_for_line(told, LIMIT);
    }
    group.monitors[0].write_file(&good);
    group.monitors[0].process().signal(Signal::Hup);
}

/// With what the replicas log in.
fn derived(group: &Group) -> Vec<(String, String)> {
    let auth = |redis: &world::redis::Redis| {
        let reply = redis.cmd(&["CONFIG", "GET", "masterauth"]);
        (format!("the credential at {}", redis.endpoint()), reply.list()[1].text().to_owned())
    };
    let all: Vec<_> = group.redis.iter().map(auth).filter(|(_, secret)| !secret.is_empty()).collect();
    assert!(!all.is_empty(), "no replica has a credential");
    all
}

#[test]
fn no_secret_stands_where_it_does_not_belong() {
    let secure = Secure::new();
    let dir = WorkDir::new("hook");
    let environment = dir.join("environment");
    let mut group = secure
        .group(2)
        .monitor_key("log", "level", "debug")
        .api_key("log", "level", "debug")
        .monitor_key("hooks", "webhook", format!("http://{}/{WEBHOOK}?token={WEBHOOK}", receiver()))
        .monitor_key("hooks", "on_failover", format!("env >> {}", environment.display()))
        // A variable of ours is a place for a secret, too, and no child's affair.
        .monitor_env(0, "ALBIREO_SENTINEL_PASSWORD", SENTINEL_PASSWORD)
        .monitor_env(1, "ALBIREO_SENTINEL_PASSWORD", SENTINEL_PASSWORD)
        .start();
    let mut all = All::default();
    let mut secrets = secure.secrets();
    secrets.extend([WRONG, WEBHOOK].map(|word| (word.to_owned(), word.to_owned())));
    secrets.extend(derived(&group));

    let before = group.settled();
    let load = group.load();
    let old = group.primary();
    group.redis[old].kill();
    load.wait_for_epoch_above(before.epoch, LIMIT);
    group.redis[old].restart();
    group.settled();
    load.wait_for_writes(100, LIMIT);
    load.stop().assert_clean();
    secrets.extend(derived(&group));
    wait::until("the hook was run", LIMIT, || {
        let text = std::fs::read_to_string(&environment).map_err(|e| e.to_string())?;
        wait::holds(text.contains("ALBIREO_JSON"), || text.clone())
    });
    all.add("the environment of a hook", std::fs::read_to_string(&environment).expect("a file"));

    let file = group.monitors[0].file().display().to_string();
    verbs(&file, &mut all);
    wrong_values(&group, &secure, &mut all);
    refused_files(&mut all);
    a_server_that_repeats(&group, &mut all);
    strangers(&group, &mut all);
    reload(&mut group);
    group.settled();
    pages(&group, &mut all);
    znodes(&group, "/", &mut all);
    processes(&mut group, &mut all);
    // And what they say at their end, and of a server that refuses them.
    for monitor in &mut group.monitors {
        monitor.process().terminate(LIMIT);
        all.add("the log of a monitor that ended", monitor.process().log());
    }
    let leaks = all.leaks(&secrets);
    println!(
        "{} outputs with {} bytes searched for {} secrets",
        all.0.len(),
        all.0.iter().map(|said| said.text.len()).sum::<usize>(),
        secrets.len()
    );
    assert!(leaks.is_empty(), "{leaks:#?}");
}

/// The search itself: where a monitor's name is what we look for, it is found wherever names are shown.
#[test]
fn a_leak_is_found() {
    let group = Group::of(0).monitors(1).monitor_key("binary_star", "name", WRONG);
    let mut group = group.api_key("api", "key_prefix", WRONG).start();
    let mut all = All::default();
    pages(&group, &mut all);
    znodes(&group, "/", &mut all);
    processes(&mut group, &mut all);
    verbs(&group.monitors[0].file().display().to_string(), &mut all);
    let secret = [("it".to_owned(), WRONG.to_owned())];
    let leaks = all.leaks(&secret).into_iter().collect::<Vec<_>>().join("\n");
    for place in [
        "monitor-0 /services",
        "monitor-0 /events",
        "znode /albireo/",
        "the log of monitor-0",
        "monitor status",
    ] {
        assert!(leaks.contains(&format!("it stands in {place}")), "{place}: {leaks}");
    }
    let by_the_way = [("the program".to_owned(), ".ini".to_owned())];
    assert!(all.leaks(&by_the_way).contains("the program stands in the command line of monitor-0"));
}
