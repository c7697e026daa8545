//! Every key: its default, a value, and values that are refused.

use super::*;
use binary_star::Role;

const BASE: &str = "[zookeeper]\nhosts = 127.0.0.1:2181\npath = /the_red/storage/posts\n";

fn files(path: &str) -> Result<Vec<u8>, String> {
    if path == "secret" { Ok(b"0123456789\n".to_vec()) } else { Err("not found".to_owned()) }
}

fn parse(text: &str) -> Result<Config, Problems> {
    Config::parse(text.as_bytes(), "m.ini", [], &files)
}

fn with(lines: &str) -> Result<Config, Problems> {
    parse(&format!("{BASE}{lines}"))
}

/// The only mistake, which stands at the last line.
fn refused(section: &str, line: &str) -> String {
    let problems = with(&format!("[{section}]\n{line}")).expect_err(line);
    assert_eq!(problems.iter().count(), 1, "{line}: {problems}");
    problems.to_string()
}

#[test]
fn the_two_key_file_is_enough() {
    let config = with("").unwrap();
    assert_eq!(config.zookeeper.hosts, "127.0.0.1:2181");
    assert_eq!(config.zookeeper.path[0].name(), "posts");
    assert_eq!(config.zookeeper.state_root.as_str(), "/albireo");
    let star = &config.binary_star;
    assert_eq!(
        (config.name(), config.role_word(), &star.peer, star.key.is_none()),
        ("primary", "primary", &None, true)
    );
    assert_eq!((star.bind.as_str(), star.voter.as_str()), ("tcp://127.0.0.1:5003", "tcp://127.0.0.1:5001"));
    assert_eq!(star.heartbeat, Duration::from_millis(250));
    let millis = Duration::from_millis;
    assert_eq!(
        config.detector,
        Detector {
            ping_interval: millis(100),
            down_after: millis(500),
            connect_timeout: millis(200),
            refused_grace: millis(0)
        }
    );
    assert_eq!(
        config.failover,
        Failover {
            min_in_sync: MinInSync::Auto,
            attach_timeout: millis(300),
            max_lag_bytes: 1_048_576,
            priority: BTreeMap::new(),
            restart_guard: true,
            switchover_budget: millis(1000),
            mass_failure_percent: 30,
            cold_start: ColdStart::Best,
            cold_wait: millis(5000),
            min_interval: millis(1000),
        }
    );
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:8001");
    assert_eq!(config.admin.announce, config.admin.listen);
    assert_eq!(config.admin.token, None);
    assert_eq!(config.limits(), Limits::default());
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn every_key_takes_a_value() {
    let text = "[zookeeper]\nhosts = a:1,b:2/x\npath = /r/posts,/r/users\ndiscover = /all\nstate_root = /st\n\
        session_timeout_ms = 10000\nauth = bob:pw\ntls = off\n\
        [binary_star]\nname = left\nrole = backup\nbind = tcp://*:6003\npeer = tcp://10.0.0.1:6003\n\
        voter = tcp://[::1]:6001\nheartbeat_ms = 100\nkey_file = secret\n\
        [detector]\nping_interval_ms = 50\ndown_after_ms = 100\nconnect_timeout_ms = 30\nrefused_grace_ms = 10\n\
        [failover]\nmin_in_sync = 2\nattach_timeout_ms = 400\nmax_lag_bytes = 0\npriority.a:1 = 0\n\
        priority.[::1]:2 = 7\nrestart_guard = off\nswitchover_budget_ms = 2000\nmass_failure_percent = 50\n\
        cold_start = operator\ncold_wait_ms = 1\nmin_interval_ms = 0\n\
        [redis]\nusername = u\npassword = file:secret\ntls = off\n[redis:a:1]\npassword = q\n\
        [admin]\nlisten = 0.0.0.0:8002\nannounce = m1.example:8002\ntoken = t\n[log]\nlevel = debug\nformat = json\n";
    let config = parse(text).unwrap();
    assert_eq!(config.zookeeper.session_timeout, Duration::from_secs(10));
    let star = &config.binary_star;
    assert_eq!((star.name.as_str(), star.role), ("left", Some(Role::Backup)));
    assert_eq!((star.bind.as_str(), star.voter.as_str()), ("tcp://*:6003", "tcp://[::1]:6001"));
    assert_eq!(star.peer.as_deref(), Some("tcp://10.0.0.1:6003"));
    assert!(star.key.is_some());
    let store = config.store_options();
    assert_eq!((store.hosts.as_str(), store.session_timeout), ("a:1,b:2/x", Duration::from_secs(10)));
    assert_eq!(store.auth, Some(("bob".to_owned(), "pw".to_owned())));
    assert_eq!(config.detector.down_after, Duration::from_millis(100));
    assert_eq!(config.failover.priority.len(), 2);
    let limits = config.limits();
    assert_eq!(
        (limits.min_in_sync, limits.max_lag_bytes, limits.restart_guard),
        (MinInSync::Fixed(2), 0, false)
    );
    assert_eq!((limits.priority, limits.min_interval), (config.failover.priority.clone(), Duration::ZERO));
    assert_eq!((limits.cold_start, limits.cold_wait), (ColdStart::Operator, Duration::from_millis(1)));
    assert_eq!(config.admin.announce.to_string(), "m1.example:8002");
    let login = |server: &str| config.login(&server.parse().unwrap());
    assert_eq!(login("a:1").password.as_deref(), Some("q"));
    assert_eq!(login("b:1").username.as_deref(), Some("u"));
    assert_eq!(login("b:1").password.as_deref(), Some("0123456789"));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let shown = format!("{config:?}");
    assert!(!shown.contains("0123456789") && !shown.contains("\"t\"") && !shown.contains("pw"), "{shown}");
}

#[test]
fn a_wrong_value_for_every_key() {
    for (section, line, why) in [
        ("binary_star", "name = a b", "a name is at most 64 letters, digits, `-`, `_` and `.`"),
        ("binary_star", "name = a/b", "a name is at most 64 letters, digits, `-`, `_` and `.`"),
        ("binary_star", "role = leader", "expected primary or backup or observer"),
        ("binary_star", "role = observer", "an observer needs a name of its own: set name"),
        ("binary_star", "bind = 127.0.0.1:5003", "expected tcp://HOST:PORT"),
        (
            "binary_star",
            "bind = tcp://*:0",
            "expected tcp://HOST:PORT; `*:0` is not host:port: the port is not a \
            number from 1 to 65535",
        ),
        ("binary_star", "voter = ipc:///x", "expected tcp://HOST:PORT"),
        ("binary_star", "voter = tcp://127.0.0.1:5003", "bind and voter are both tcp://127.0.0.1:5003"),
        ("binary_star", "heartbeat_ms = 9", "not between 10 and 60000 ms"),
        ("binary_star", "key_file = gone", "the file gone cannot be read: not found"),
        ("detector", "ping_interval_ms = 0", "not between 10 and 60000 ms"),
        (
            "detector",
            "ping_interval_ms = 300",
            "down_after_ms = 500 is less than twice ping_interval_ms = 300",
        ),
        ("detector", "down_after_ms = 199", "down_after_ms = 199 is less than twice ping_interval_ms = 100"),
        ("detector", "connect_timeout_ms = fast", "not a whole number from 10 to 60000 ms"),
        ("detector", "refused_grace_ms = -1", "not between 0 and 60000 ms"),
        ("failover", "min_in_sync = some", "expected auto or a whole number from 0 to 64"),
        ("failover", "min_in_sync = 65", "not between 0 and 64 replicas"),
        ("failover", "attach_timeout_ms = 1", "not between 10 and 600000 ms"),
        ("failover", "max_lag_bytes = 1MB", "not a whole number from 0 to 1099511627776 bytes"),
        ("failover", "priority.a:1 = -1", "not between 0 and 1000000"),
        ("failover", "priority.a = 1", "unknown key; expected priority.HOST:PORT"),
        ("failover", "restart_guard = yes", "expected on or off"),
        ("failover", "switchover_budget_ms = 0", "not between 10 and 600000 ms"),
        ("failover", "mass_failure_percent = 0", "not between 1 and 100 percent"),
        ("failover", "cold_start = never", "expected operator or best"),
        ("failover", "cold_wait_ms = 1.5", "not a whole number from 0 to 3600000 ms"),
        ("failover", "min_interval_ms = x", "not a whole number from 0 to 3600000 ms"),
        ("admin", "listen = 8001", "`8001` is not host:port: the port is missing"),
        ("admin", "announce = :1", "`:1` is not host:port: neither an IP address nor a host name"),
        ("log", "level = 3", "expected error or warn or info or debug or trace"),
        ("log", "format = xml", "expected text or json"),
        ("redis", "username = u", "a username needs a password"),
        ("redis", "tls = yes", "expected on or off"),
        ("sentinel", "listen = 26379", "`26379` is not host:port: the port is missing"),
        (
            "sentinel",
            "listen = 0.0.0.0:26379",
            "clients are told this address and cannot reach it; set announce",
        ),
        ("sentinel", "announce = a:1", "has no effect without [sentinel] listen"),
        ("dns", "listen = 53", "`53` is not host:port: the port is missing"),
        ("dns", "zone = albireo.internal", "has no effect without [dns] listen"),
        ("dns", "ttl = 1", "has no effect without [dns] listen"),
        ("hooks", "tls_ca = /x", "has no effect without webhook = https://..."),
        ("hooks", "timeout_ms = 0", "not between 1 and 3600000 ms"),
        ("detector", "timeout = 5", "unknown key"),
        ("detecter", "x = 5", "unknown section; did you mean [detector]?"),
    ] {
        assert_eq!(refused(section, line), format!("m.ini:5: [{section}] {line}: {why}"));
    }
    let paired = refused("binary_star", "role = observer\nname = o\npeer = tcp://a:1");
    assert_eq!(
        paired,
        "m.ini:7: [binary_star] peer = tcp://a:1: an observer is none of the pair, and has no use for it"
    );
    for line in ["webhook = ftp://x/S3CRET", "webhook = /S3CRET", "webhook = https://u:S3CRET@x/"] {
        let hidden = refused("hooks", line);
        let why = "expected http://HOST[:PORT]/PATH or https://..., without user and password";
        assert_eq!(hidden, format!("m.ini:5: [hooks] webhook = ***: {why}"));
    }
    let hidden = refused("hooks", "webhook = https://x/S3CRET");
    assert!(hidden.starts_with("m.ini:5: [hooks] webhook = ***: https needs tls_ca"), "{hidden}");
    let hidden = refused("hooks", "webhook = https://x/S3CRET\ntls_ca = secret");
    assert_eq!(hidden, "m.ini:6: [hooks] tls_ca = secret: no certificate in PEM");
    let hidden = refused("admin", "token = file:gone");
    assert_eq!(hidden, "m.ini:5: [admin] token = ***: the file gone cannot be read: not found");
}

#[test]
fn the_sentinel_endpoint() {
    assert!(with("").unwrap().sentinel.is_none());
    let sentinel = |lines: &str| with(&format!("[sentinel]\n{lines}")).map(|config| config.sentinel.unwrap());
    let plain = sentinel("listen = 127.0.0.1:26379\n").unwrap();
    assert_eq!((plain.announce.to_string().as_str(), plain.login.is_none()), ("127.0.0.1:26379", true));
    let lines = "listen = 0.0.0.0:26379\nannounce = a:2\npassword = p\n";
    let login = sentinel(lines).unwrap().login.unwrap();
    assert!(login.password.matches(b"p"));
    assert_eq!((login.username.as_str(), sentinel(lines).unwrap().announce.port()), ("default", 2));
    let problems = sentinel("listen = a:1\nusername = u\n").unwrap_err().to_string();
    assert!(problems.ends_with("a username needs a password"), "{problems}");
    let problems = sentinel("listen = a:1\nannounce = [::]:1\n").unwrap_err().to_string();
    assert!(problems.contains("cannot reach it"), "{problems}");
}

#[test]
fn dns() {
    assert!(with("").unwrap().dns.is_none());
    let dns = |lines: &str| with(&format!("[dns]\nlisten = {lines}\n")).map(|config| config.dns.unwrap());
    let host = |addr: &str| dns::Host::of(&addr.parse().unwrap()).unwrap();
    let plain = dns("127.0.0.1:5300").unwrap();
    assert_eq!((plain.zone, plain.ttl), ("albireo.internal".parse().unwrap(), 0));
    assert_eq!(plain.host, host("127.0.0.1:5300"));
    let all = dns("ns.example:53\nzone = Redis.Example.\nttl = 3600").unwrap();
    assert_eq!((all.zone, all.ttl, all.host), ("redis.example".parse().unwrap(), 3600, host("ns.example:1")));
    let reached = dns("0.0.0.0:53\n[admin]\nannounce = m1.example:8001").unwrap();
    assert_eq!(reached.host, host("m1.example:1"));
    let reached = dns("[::]:53\n[sentinel]\nlisten = 10.0.0.5:26379").unwrap();
    assert_eq!(reached.host, host("10.0.0.5:1"));
    let zone = "expected a domain name such as albireo.internal, of at most 160 letters, digits, `-`, `_`";
    for (line, why) in [
        ("zone = a..b", zone),
        ("zone = .", zone),
        ("ttl = 3601", "not between 0 and 3600 seconds"),
        ("ttl = 1m", "not a whole number from 0 to 3600 seconds"),
    ] {
        let problems = dns(&format!("a:53\n{line}")).unwrap_err().to_string();
        assert_eq!(problems, format!("m.ini:6: [dns] {line}: {why}"));
    }
}

#[test]
fn what_must_hold_between_keys() {
    let problems = with("[binary_star]\npeer = tcp://127.0.0.1:5004\n").unwrap_err().to_string();
    assert!(problems.starts_with("m.ini:4: [binary_star] role = : missing; with `peer`"), "{problems}");
    let own = with("[binary_star]\nrole = backup\npeer = tcp://127.0.0.1:5003\n").unwrap_err().to_string();
    assert!(
        own.starts_with("m.ini:6: [binary_star] peer = tcp://127.0.0.1:5003: peer and bind are both"),
        "{own}"
    );
    let twice = with("[failover]\npriority.A:1 = 1\npriority.a:1 = 2\n").unwrap_err().to_string();
    assert!(twice.ends_with("the same server has another priority"), "{twice}");
    let none = parse("[zookeeper]\nhosts = a:1\n").unwrap_err().to_string();
    assert!(none.starts_with("m.ini:1: [zookeeper] path = : missing; for example"), "{none}");
    assert!(parse("[zookeeper]\nhosts = a:1\ndiscover = /all\n").is_ok());
    let same = parse("[zookeeper]\nhosts = a:1\npath = /a/x,/b/x\n").unwrap_err().to_string();
    assert!(same.contains("/a/x and /b/x would both be called `x`"), "{same}");
}

#[test]
fn every_mistake_is_reported_in_the_order_of_the_lines() {
    let problems =
        parse("[zookeeper]\nhosts = a:0\n[detector]\nping_interval_ms = x\n[nope]\na = 1\n").unwrap_err();
    let lines: Vec<Option<usize>> = problems.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [Some(1), Some(2), Some(4), Some(6)]);
    assert_eq!(problems.first().line, Some(1));
}

#[test]
fn an_empty_file_names_what_is_missing() {
    let problems = parse("").unwrap_err();
    assert_eq!(problems.iter().count(), 2, "{problems}");
    assert!(
        problems
            .to_string()
            .starts_with("m.ini:1: [zookeeper] hosts = : missing; for example 127.0.0.1:2181")
    );
}

#[test]
fn the_environment_overrides_and_is_named_in_mistakes() {
    let env = |name: &str, value: &str| [(name.to_owned(), value.to_owned())];
    let read = |name, value| Config::parse(BASE.as_bytes(), "m.ini", env(name, value), &files);
    let config = read("ALBIREO_BINARY_STAR_HEARTBEAT_MS", "20").unwrap();
    assert_eq!(config.binary_star.heartbeat, Duration::from_millis(20));
    let problems = read("ALBIREO_LOG_LEVEL", "loud").unwrap_err().to_string();
    assert!(problems.starts_with("ALBIREO_LOG_LEVEL:1: [log] level = loud: expected error or"), "{problems}");
    let ignored = read("ALBIREO_BINARYSTAR_ROLE", "backup").unwrap();
    assert_eq!(ignored.warnings.len(), 1);
    assert!(ignored.warnings[0].contains("ALBIREO_BINARYSTAR_ROLE"));
}

#[test]
fn what_is_worth_a_warning() {
    let pair = "[binary_star]\nrole = primary\npeer = tcp://10.0.0.2:5003\n";
    assert_eq!(with(pair).unwrap().warnings, [""; 0]);
    let open = with(&format!("{pair}bind = tcp://*:5003\n")).unwrap();
    assert!(open.warnings[0].contains("set key_file"), "{:?}", open.warnings);
    let keyed = with(&format!("{pair}bind = tcp://10.0.0.1:5003\nkey_file = secret\n")).unwrap();
    assert_eq!(keyed.warnings, [""; 0]);
    let nowhere = with("[admin]\nlisten = [::]:8001\n").unwrap();
    assert!(nowhere.warnings[0].contains("set [admin] announce"), "{:?}", nowhere.warnings);
}

#[test]
fn a_file_that_is_not_there() {
    let problems = Config::load(Path::new("/nowhere/m.ini")).unwrap_err();
    assert_eq!(
        problems.to_string(),
        "/nowhere/m.ini: cannot be read: No such file or directory (os error 2)"
    );
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

/// Parses with every file there.
fn shipped_config(text: &str) -> Result<Config, Problems> {
    Config::parse(text.as_bytes(), "m.ini", [], &|_| Ok(b"user:secret".to_vec()))
}

#[test]
fn the_shipped_files_say_what_they_seem_to() {
    let mut two_keys = shipped_config(&shipped("monitor.ini")).unwrap();
    two_keys.source = with("").unwrap().source; // where each key stands
    assert_eq!(format!("{two_keys:?}"), format!("{:?}", with("").unwrap()));
    let ports = |config: &Config| {
        let star = &config.binary_star;
        (
            star.bind.clone(),
            star.peer.clone().unwrap_or_default(),
            star.voter.clone(),
            config.admin.listen.port(),
        )
    };
    let tcp = |port: u16| format!("tcp://127.0.0.1:{port}");
    for (name, role, expected) in [
        ("monitor-primary.ini", Role::Primary, (tcp(5003), tcp(5004), tcp(5001), 8001)),
        ("monitor-backup.ini", Role::Backup, (tcp(5004), tcp(5003), tcp(5002), 8002)),
    ] {
        let text = shipped(name);
        let config = shipped_config(&text).unwrap();
        assert_eq!((config.binary_star.role, ports(&config)), (Some(role), expected), "{name}");
        assert_eq!((&config.zookeeper, &config.warnings), (&two_keys.zookeeper, &Vec::new()), "{name}");
        assert_eq!(unmentioned(&text), [""; 0], "{name}");
        // What is shown as a default is one.
        let mut spelled_out = shipped_config(&uncommented(&text, ';')).unwrap();
        spelled_out.source = config.source.clone();
        assert_eq!(format!("{spelled_out:?}"), format!("{config:?}"), "{name}");
        // What is shown as an example works, but for the certificate, which is none.
        let examples = uncommented(&uncommented(&text, '#'), ';');
        let problems = shipped_config(&examples).unwrap_err().to_string();
        assert!(
            problems.ends_with("[hooks] tls_ca = /etc/ssl/ca.pem: no certificate in PEM"),
            "{name}: {problems}"
        );
        assert_eq!(problems.lines().count(), 1, "{name}: {problems}");
    }
}
