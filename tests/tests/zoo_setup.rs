//! The built `zoo-setup` against a real ZooKeeper: what it writes, what it leaves alone, and its exit codes.

use std::time::{Duration, Instant};

use world::WorkDir;
use world::programs;
use world::zookeeper::ZooKeeper;

const LIMIT: Duration = Duration::from_secs(30);
const PATH: &str = "/the_red/storage/posts";
const DEFAULT: &str = r#"{"primary": "127.0.0.1:6379", "secondary": ["127.0.0.1:6380"]}"#;

/// Runs `zoo-setup` with these hosts and further words.
fn setup(hosts: &str, words: &str) -> (i32, String) {
    let words = words.split(' ').filter(|word| !word.is_empty());
    let arguments: Vec<&str> = ["--hosts", hosts].into_iter().chain(words).collect();
    programs::run("zoo-setup", &arguments, LIMIT)
}

#[test]
fn it_seeds_once_and_never_overwrites_by_accident() {
    let server = ZooKeeper::start();
    let hosts = server.hosts();
    let (code, said) = setup(&hosts, "");
    assert_eq!((code, said.trim()), (0, &*format!("{PATH} created: {DEFAULT}")));
    assert_eq!(server.get(PATH).map(|znode| znode.text()).as_deref(), Some(DEFAULT));
    assert_eq!(server.children("/"), ["albireo", "the_red", "zookeeper"]);
    assert_eq!(server.children("/albireo"), [""; 0], "no state record");

    let (code, said) = setup(&hosts, "");
    assert_eq!((code, said.contains("holds this already")), (0, true), "{said}");
    // The same with other spaces and another order of keys.
    server.set(PATH, r#"{"secondary":["127.0.0.1:6380"],"primary":"127.0.0.1:6379"}"#);
    assert_eq!(setup(&hosts, "").0, 0);
    assert_eq!(server.get(PATH).map(|znode| znode.version), Some(1), "it was left as it is");

    let (code, said) = setup(&hosts, "--secondary 127.0.0.1:6380 127.0.0.1:6381");
    assert_eq!(code, 3, "{said}");
    assert!(said.contains(r#"{"secondary":["127.0.0.1:6380"],"primary":"127.0.0.1:6379"}"#), "{said}");
    assert_eq!(server.get(PATH).map(|znode| znode.version), Some(1), "a refusal changes nothing");

    let (code, said) = setup(&hosts, "--secondary 127.0.0.1:6381 --secondary 127.0.0.1:6380 --force");
    assert_eq!(code, 0, "{said}");
    let forced = r#"{"primary": "127.0.0.1:6379", "secondary": ["127.0.0.1:6381", "127.0.0.1:6380"]}"#;
    assert_eq!(server.get(PATH).map(|znode| znode.text()).as_deref(), Some(forced));
}

#[test]
fn what_is_there_but_no_announcement() {
    let server = ZooKeeper::start();
    let hosts = server.hosts();
    server.create("/a/empty", "");
    assert_eq!(setup(&hosts, "--path /a/empty").0, 0, "an empty znode is seeded");
    assert_eq!(server.get("/a/empty").map(|znode| znode.text()).as_deref(), Some(DEFAULT));
    server.create("/a/foreign", "hello");
    let (code, said) = setup(&hosts, "--path /a/foreign");
    assert_eq!((code, said.contains("hello")), (3, true), "{said}");
    let (code, said) =
        setup(&hosts, "--path /a/foreign --primary r:1 --secondary --state-root /state --force");
    assert_eq!(code, 0, "{said}");
    assert_eq!(
        server.get("/a/foreign").map(|znode| znode.text()).as_deref(),
        Some(r#"{"primary": "r:1", "secondary": []}"#)
    );
    assert!(server.get("/state").is_some());
    // A chroot that is not there yet.
    let (code, said) = setup(&format!("{hosts}/some/root"), "--path /posts");
    assert_eq!(code, 0, "{said}");
    assert_eq!(server.get("/some/root/posts").map(|znode| znode.text()).as_deref(), Some(DEFAULT));
}

#[test]
fn hosts_and_path_from_a_monitors_file() {
    let server = ZooKeeper::start();
    let dir = WorkDir::new("zoo-setup-config");
    let write = |name: &str, paths: &str| {
        let file = dir.join(name);
        let text = format!(
            "[zookeeper]\nhosts = {}\npath = {paths}\nstate_root = /st\n[detector]\nping_interval_ms = 100\n",
            server.hosts()
        );
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    let one = write("one.ini", "/r/posts");
    assert_eq!(programs::run("zoo-setup", &["--config", &one], LIMIT).0, 0);
    assert_eq!(server.get("/r/posts").map(|znode| znode.text()).as_deref(), Some(DEFAULT));
    assert!(server.get("/st").is_some() && server.get("/albireo").is_none());

    let two = write("two.ini", "/r/users,/r/mails");
    let (code, said) = programs::run("zoo-setup", &["--config", &two], LIMIT);
    assert_eq!((code, said.contains("--path")), (2, true), "{said}");
    assert_eq!(programs::run("zoo-setup", &["--config", &two, "--path", "/r/mails"], LIMIT).0, 0);
    assert!(server.get("/r/mails").is_some() && server.get("/r/users").is_none());

    let wrong = write("wrong.ini", "posts");
    let (code, said) = programs::run("zoo-setup", &["--config", &wrong], LIMIT);
    assert_eq!(code, 2);
    assert!(
        said.starts_with(&format!("{wrong}:3: [zookeeper] path = posts: `posts` is no znode path")),
        "{said}"
    );
}

#[test]
fn without_a_server_it_gives_up_after_five_seconds() {
    let began = Instant::now();
    let (code, said) = setup(&format!("127.0.0.1:{}", world::ports::free()), "");
    let took = began.elapsed();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("within 5 s"), "{said}");
    assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(15), "{took:?}");
}

#[test]
fn usage() {
    let run = |arguments: &[&str]| programs::run("zoo-setup", arguments, LIMIT);
    let (code, said) = run(&["--help"]);
    assert_eq!(code, 0);
    for word in ["--hosts", "--path", "--primary", "--secondary", "--state-root", "--force", "--config"] {
        assert!(said.contains(word), "{said}");
    }
    let (code, said) = run(&["--version"]);
    assert_eq!((code, said.trim()), (0, concat!("zoo-setup ", env!("CARGO_PKG_VERSION"))));
    for wrong in
        [&["--frobnicate"][..], &["--path", "posts"], &["--primary", "a"], &["--secondary", "127.0.0.1:6379"]]
    {
        assert_eq!(run(wrong).0, 2, "{wrong:?}");
    }
}
