//! Every key: its default, a value, and values that are refused.

use super::*;

const BASE: &str = "[zookeeper]\nhosts = 127.0.0.1:2181\npath = /the_red/storage/posts\n";

fn files(_: &str) -> Result<Vec<u8>, String> {
    Err("not found".to_owned())
}

fn parse(text: &str) -> Result<Config, Problems> {
    Config::parse(text.as_bytes(), "a.ini", [], &files)
}

#[test]
fn the_two_key_file_is_enough() {
    let config = parse(BASE).unwrap();
    assert_eq!(
        config.api,
        Api {
            listen: "127.0.0.1:7001".parse().unwrap(),
            service: "posts".to_owned(),
            service_path: "/the_red/storage/posts".parse().unwrap(),
            durability: Durability::Sync,
            key_prefix: "k:".to_owned(),
            deadline: Duration::from_secs(3),
            drain: Duration::from_secs(2),
            max_value_bytes: 1_048_576,
            max_in_flight: 4096,
            token: None,
        }
    );
    assert_eq!(config.api.durability.as_str(), "sync");
    assert_eq!(config.store_options().hosts, "127.0.0.1:2181");
    assert_eq!(config.login(&"a:1".parse().unwrap()), wire::Login::default());
}

#[test]
fn every_key_takes_a_value() {
    let text = "[zookeeper]\nhosts = a:1\npath = /r/posts,/r/users\nauth = bob:pw\n\
        [api]\nlisten = [::]:80\nservice = users\ndurability = async\nkey_prefix =\ndeadline_ms = 500\ndrain_ms = 0\n\
        max_value_bytes = 10\nmax_in_flight = 1\ntoken = t0ken\n\
        [redis]\npassword = pw2\n[redis:a:1]\nusername = u\n[log]\nlevel = warn\n";
    let config = parse(text).unwrap();
    assert_eq!((config.api.service.as_str(), config.api.service_path.as_str()), ("users", "/r/users"));
    assert_eq!((config.api.key_prefix.as_str(), config.api.max_value_bytes), ("", 10));
    assert_eq!(config.api.durability, Durability::Async);
    assert_eq!(config.api.token, Some(Secret::new("t0ken")));
    assert_eq!(config.store_options().auth, Some(("bob".to_owned(), "pw".to_owned())));
    assert_eq!(config.login(&"a:1".parse().unwrap()).username.as_deref(), Some("u"));
    let shown = format!("{config:?}");
    assert!(!shown.contains("t0ken") && !shown.contains("pw"), "{shown}");
}

#[test]
fn a_wrong_value_for_every_key() {
    for (line, why) in [
        ("listen = 7001", "`7001` is not host:port: the port is missing"),
        ("service = users", "no path in [zookeeper] ends in it; there is posts"),
        ("durability = maybe", "expected sync or async"),
        ("key_prefix = albireo:x", "albireo: is reserved for Albireo's own keys"),
        ("deadline_ms = 0", "not between 10 and 600000 ms"),
        ("max_value_bytes = 0", "not between 1 and 536870912 bytes"),
        ("max_in_flight = all", "not a whole number from 1 to 1000000 requests"),
        ("key_prefx = x", "unknown key; did you mean `key_prefix`?"),
    ] {
        let problems = parse(&format!("{BASE}[api]\n{line}")).expect_err(line);
        assert_eq!(problems.to_string(), format!("a.ini:5: [api] {line}: {why}"));
    }
    let hidden = parse(&format!("{BASE}[api]\ntoken = file:gone")).unwrap_err().to_string();
    assert_eq!(hidden, "a.ini:5: [api] token = ***: the file gone cannot be read: not found");
    let monitors = parse(&format!("{BASE}[detector]\ndown_after_ms = 5")).unwrap_err().to_string();
    assert!(monitors.starts_with("a.ini:5: [detector] down_after_ms = 5: unknown section"), "{monitors}");
}

#[test]
fn which_service_is_meant() {
    let with = |lines: &str| parse(&format!("[zookeeper]\nhosts = a:1\n{lines}"));
    let service = |lines: &str| with(lines).map(|config| config.api.service_path.as_str().to_owned());
    assert_eq!(service("path = /r/x,/r/y\n[api]\nservice = x"), Ok("/r/x".to_owned()));
    assert_eq!(service("discover = /all\n[api]\nservice = x"), Ok("/all/x".to_owned()));
    assert_eq!(service("path = /r/y\ndiscover = /all\n[api]\nservice = x"), Ok("/all/x".to_owned()));
    let problem = |lines: &str| with(lines).expect_err(lines).to_string();
    let several = problem("path = /r/x,/r/y\n");
    assert_eq!(
        several,
        "a.ini:1: [api] service = : missing; say which service /api/v1/get and /api/v1/write mean"
    );
    assert!(problem("discover = /all\n").contains("[api] service = : missing"));
    assert!(problem("discover = /all\n[api]\nservice = a/b").contains("the last part of its path"));
    assert_eq!(problem("").lines().count(), 1);
    assert!(problem("").contains("[zookeeper] path = : missing"));
}

/// A file of `conf/`, read as it is shipped.
fn shipped(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf").join(name)).unwrap()
}

/// The text with the commented keys that begin with `mark` turned into keys.
fn uncommented(text: &str, mark: char) -> String {
    let line = |line: &str| match line.strip_prefix(mark) {
        Some(key) if !key.starts_with(' ') => format!("{key}\n"),
        Some(_) | None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// Every key of the schema that a text does not mention in its section, as a key or as a comment.
fn unmentioned(text: &str) -> Vec<String> {
    let mut missing = Vec::new();
    for section in SCHEMA.sections() {
        let header = format!("[{}]", section.name());
        let body =
            text.lines().skip_while(|line| *line != header).skip(1).take_while(|line| !line.starts_with('['));
        let body: Vec<&str> = body.collect();
        for key in section.keys() {
            let mentions = |line: &&str| {
                let rest = line.trim_start_matches([';', '#']).strip_prefix(key.name());
                rest.is_some_and(|rest| rest.starts_with(" =") || rest.starts_with('.'))
            };
            if !body.iter().any(mentions) {
                missing.push(format!("[{}] {}", section.name(), key.name()));
            }
        }
    }
    missing
}

#[test]
fn the_shipped_file_says_what_it_seems_to() {
    let parse = |text: &str| Config::parse(text.as_bytes(), "a.ini", [], &|_| Ok(b"user:secret".to_vec()));
    let text = shipped("api.ini");
    let config = parse(&text).unwrap();
    assert_eq!(Ok(&config), self::parse(BASE).as_ref(), "it holds the defaults");
    assert_eq!(unmentioned(&text), [""; 0]);
    // What is shown as a default is one.
    assert_eq!(Ok(&config), parse(&uncommented(&text, ';')).as_ref());
    // What is shown as an example works.
    let examples = parse(&uncommented(&uncommented(&text, '#'), ';'));
    assert_eq!(examples.map_err(|problems| problems.to_string()).err(), None);
}
