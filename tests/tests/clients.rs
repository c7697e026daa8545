//! Client libraries for Redis Sentinel at the monitors, unchanged, as their users have them: each finds the primary, writes,
//! reads from a replica, and goes on writing through a kill, a planned change and the loss of a monitor, without a restart.
//!
//! Each is a small program of `../clients` (the redis crate: a thread in here) with the arguments `KEY PASSWORD DEAD LIVE LIVE`:
//! the key to write, the endpoints' password, the port of an endpoint that is not there, and the ports of the two that are.
//! It prints a line for each step (`BEGINNING`), and then writes 1, 2, ... to its key for ever: `wrote N` for each
//! acknowledged write, `not written N ...` for each other one, and `read N` now and then for what a replica holds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis::sentinel::{SentinelClient, SentinelServerType};
use topology::Endpoint;
use world::group::Group;
use world::resp::{Connection, Reply};
use world::skip::skip;
use world::{Host, Process, machine, ports, target_dir, wait};

const LIMIT: Duration = Duration::from_secs(20);
const PASSWORD: &str = "secret";

/// What a client prints before it begins to write; `PORT` is the primary's.
const BEGINNING: [&str; 5] = [
    "unknown name refused",
    "wrong password refused",
    "one endpoint down PORT",
    "primary PORT",
    "role of the replica slave",
];

/// How its lines begin.
const WORDS: [&str; 10] = [
    "unknown name ",
    "wrong password ",
    "one endpoint down ",
    "primary ",
    "role of the replica ",
    "wrote ",
    "not written ",
    "read ",
    "not read ",
    "ended ",
];

/// A running client.
struct Client {
    name: &'static str,
    program: Program,
}

enum Program {
    Process(Process),
    Thread(Arc<Mutex<Vec<String>>>),
}

/// The arguments of a client.
struct Ends {
    dead: u16,
    live: [u16; 2],
}

impl Client {
    fn start(name: &'static str, mut command: Command, ends: &Ends) -> Self {
        command.args([name, PASSWORD, &ends.dead.to_string()]).args(ends.live.map(|port| port.to_string()));
        Self { name, program: Program::Process(Process::of(name, command)) }
    }

    /// What it said, without what its library printed beside that.
    fn lines(&self) -> Vec<String> {
        match &self.program {
            Program::Process(process) => {
                let log = process.log();
                let ours = |line: &&str| WORDS.iter().any(|word| line.starts_with(word));
                log.lines().filter(ours).map(str::to_owned).collect()
            }
            Program::Thread(lines) => lines.lock().expect("no panic").clone(),
        }
    }

    /// It began as it should and has not ended.
    #[track_caller]
    fn has_begun(&mut self, primary: u16) {
        let expected = BEGINNING.map(|line| line.replace("PORT", &primary.to_string()));
        let begun = Instant::now();
        wait::until(&format!("{}: its beginning", self.name), LIMIT, || {
            let lines = self.lines();
            // Where both monitors have just stood still, nobody is named.
            let excuse = || machine::excuse(begun, Instant::now());
            assert!(self.is_running(), "{} has ended: {lines:#?}{}", self.name, excuse());
            wait::holds(lines.len() > expected.len(), || lines.join("\n"))
        });
        assert_eq!(self.lines()[..expected.len()], expected, "{}", self.name);
    }

    /// The last number that was acknowledged, and the last that was read.
    fn at(&self) -> (u64, u64) {
        let lines = self.lines();
        let last = |word: &str| {
            let found = lines.iter().rev().find_map(|line| line.strip_prefix(word)?.trim().parse().ok());
            found.unwrap_or(0)
        };
        (last("wrote "), last("read "))
    }

    /// Waits until it has written something more, which this server holds, and has read something as new from a replica.
    #[track_caller]
    fn writes_to(&mut self, group: &Group, primary: &Endpoint) {
        let server = &group.redis[group.number_of(primary)];
        // What was acknowledged before now may have been acknowledged by another server.
        let (before, _) = self.at();
        let what = format!("{}: writes at {primary}", self.name);
        let further = wait::until(&what, LIMIT, || {
            let held = match server.try_cmd(&["GET", self.name]).map_err(|e| e.to_string())? {
                Reply::Text(held) => held.parse::<u64>().map_err(|e| e.to_string())?,
                other @ (Reply::Number(_) | Reply::Error(_) | Reply::Nil | Reply::List(_)) => {
                    return Err(format!("it holds {other:?}"));
                }
            };
            let (now, _) = self.at();
            wait::holds(now > before && held > before, || {
                format!("{before}, now {now}, held {held}: {}", self.end())
            })?;
            Ok(now)
        });
        wait::until(&format!("{}: reads from a replica", self.name), LIMIT, || {
            let (_, read) = self.at();
            wait::holds(read >= further, || format!("{read}, not {further}: {}", self.end()))
        });
        assert!(self.is_running(), "{} has ended: {}", self.name, self.end());
    }

    fn is_running(&mut self) -> bool {
        match &mut self.program {
            Program::Process(process) => process.is_running(),
            Program::Thread(lines) => {
                !lines.lock().expect("no panic").iter().any(|line| line.starts_with("ended "))
            }
        }
    }

    fn end(&self) -> String {
        let lines = self.lines();
        lines[lines.len().saturating_sub(5)..].join("; ")
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

/// A command of this interpreter, if it is there and this runs.
fn interpreter(candidates: &[String], arguments: &[&str]) -> Option<String> {
    let runs = |program: &&String| {
        let tried =
            Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    };
    candidates.iter().find(runs).cloned()
}

/// A Python that has redis-py: `TEST_REDIS_PY`, or the system's.
fn python() -> Result<String, &'static str> {
    let named = std::env::var("TEST_REDIS_PY").into_iter();
    let candidates: Vec<String> = named.chain(["/usr/bin/python3", "python3"].map(str::to_owned)).collect();
    interpreter(&candidates, &["-c", "import redis.sentinel, redis.asyncio.sentinel"])
        .ok_or("no Python with redis-py (name one in TEST_REDIS_PY)")
}

/// A Node.js, and the directory with the libraries that the lock file names, fetched by npm.
fn node() -> Result<(String, PathBuf), &'static str> {
    let node = interpreter(
        &["node".to_owned()],
        &["-e", "process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)"],
    );
    let node = node.ok_or("no Node.js of version 20 or newer")?;
    let dir = target_dir().join("test-clients");
    fs::create_dir_all(&dir).expect("a directory");
    let lock = fs::read(script("package-lock.json")).expect("the lock file");
    // What was fetched whole is not fetched again.
    let whole = dir.join("whole");
    if fs::read(&whole).ok().as_ref() != Some(&lock) {
        for name in ["package.json", "package-lock.json"] {
            fs::copy(script(name), dir.join(name)).expect("a copy");
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]).current_dir(&dir);
        npm.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if !npm.status().is_ok_and(|status| status.success()) {
            return Err("npm is missing, or `npm ci` could not fetch ioredis and @redis/client");
        }
        fs::write(&whole, lock).expect("a mark");
    }
    Ok((node, dir.join("node_modules")))
}

/// The redis crate, in a thread of its own.
fn redis_crate(name: &'static str, ends: &Ends) -> Client {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let (said, dead, live) = (lines.clone(), ends.dead, ends.live);
    std::thread::spawn(move || {
        let say = |line: String| said.lock().expect("no panic").push(line);
        if let Err(error) = with_redis_crate(name, dead, live, &say) {
            say(format!("ended {error}"));
        }
    });
    Client { name, program: Program::Thread(lines) }
}

fn with_redis_crate(key: &str, dead: u16, live: [u16; 2], say: &dyn Fn(String)) -> redis::RedisResult<()> {
    let client = |ports: [u16; 2], password: &str, name: &str, of: SentinelServerType| {
        let ends = ports.map(|port| format!("redis://:{password}@127.0.0.1:{port}"));
        SentinelClient::build(ends.to_vec(), name.to_owned(), None, of)
    };
    let primary_of = |ports, password, name| client(ports, password, name, SentinelServerType::Master);
    let refused = |what: &str, found: redis::RedisResult<redis::Connection>| {
        say(format!("{what} {}", if found.is_ok() { "found" } else { "refused" }));
    };
    refused("unknown name", primary_of(live, PASSWORD, "unknown")?.get_connection());
    refused("wrong password", primary_of(live, "wrong", "posts")?.get_connection());
    let mut other = Kept::new(primary_of([dead, live[1]], PASSWORD, "posts")?);
    let words: Vec<String> = other.ask(redis::cmd("CONFIG").arg("GET").arg("port"))?;
    say(format!("one endpoint down {}", words[1]));

    let mut primary = Kept::new(primary_of(live, PASSWORD, "posts")?);
    let mut replica = Kept::new(client(live, PASSWORD, "posts", SentinelServerType::Replica)?);
    let words: Vec<String> = primary.ask(redis::cmd("CONFIG").arg("GET").arg("port"))?;
    say(format!("primary {}", words[1]));
    let role: Vec<redis::Value> = replica.ask(&redis::cmd("ROLE"))?;
    say(format!("role of the replica {}", redis::from_redis_value::<String>(role[0].clone())?));
    for number in 1_u64.. {
        match primary.ask::<()>(redis::cmd("SET").arg(key).arg(number)) {
            Ok(()) => say(format!("wrote {number}")),
            Err(error) => say(format!("not written {number} {error}")),
        }
        if number % 10 == 0 {
            match replica.ask::<Option<u64>>(redis::cmd("GET").arg(key)) {
                Ok(read) => say(format!("read {}", read.unwrap_or(0))),
                Err(error) => say(format!("not read {error}")),
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A connection that is used until it fails; the next one is where the client is sent then.
struct Kept {
    client: SentinelClient,
    connection: Option<redis::Connection>,
}

impl Kept {
    fn new(client: SentinelClient) -> Self {
        Self { client, connection: None }
    }

    fn ask<T: redis::FromRedisValue>(&mut self, command: &redis::Cmd) -> redis::RedisResult<T> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.client.get_connection()?,
        };
        let answer = command.query(&mut connection)?;
        self.connection = Some(connection);
        Ok(answer)
    }
}

/// Every client whose library is here; the others are named as skipped. Each has begun before the next one is started: where five
/// interpreters start at once, a monitor may stand still, and right after that it names nobody.
fn start_all(ends: &Ends, primary: u16) -> Vec<Client> {
    // Sought beforehand: that may take longer than a client's start.
    let (python, node) = (python(), node());
    let mut clients = Vec::new();
    let mut take_in = |mut client: Client| {
        client.has_begun(primary);
        clients.push(client);
    };
    take_in(redis_crate("redis-crate", ends));
    let mut shell = Command::new("sh");
    shell.arg(script("redis-cli.sh"));
    take_in(Client::start("redis-cli", shell, ends));
    match python {
        Ok(python) => {
            for (name, file) in [("redis-py", "redis_py.py"), ("redis-py-asyncio", "redis_py_asyncio.py")] {
                let mut command = Command::new(&python);
                command.arg(script(file));
                take_in(Client::start(name, command, ends));
            }
        }
        Err(why) => skip("clients.rs: redis-py", why),
    }
    match node {
        Ok((node, modules)) => {
            for (name, file) in [("ioredis", "ioredis.js"), ("node-redis", "node-redis.js")] {
                let mut command = Command::new(&node);
                command.arg(script(file)).env("NODE_PATH", &modules);
                take_in(Client::start(name, command, ends));
            }
        }
        Err(why) => skip("clients.rs: ioredis and node-redis", why),
    }
    clients
}

#[track_caller]
fn after_another_primary(group: &Group, old: &Endpoint) -> Endpoint {
    let state = wait::until("another primary", LIMIT, || {
        let state = group.try_state()?;
        let done = state.primary.addr != *old && state.phase == topology::Phase::Serving;
        wait::holds(done, || format!("{state:?}"))?;
        Ok::<_, String>(state)
    });
    state.primary.addr
}

#[test]
fn every_client_follows_the_primary() {
    let mut group = Group::of(2).apis(0).sentinel().monitor_key("sentinel", "password", PASSWORD).start();
    let first = group.settled().primary.addr;
    let endpoints = [group.sentinel_address(0), group.sentinel_address(1)];
    let open = |number: usize| {
        let mut connection =
            Connection::open(&Host::local(), endpoints[number], LIMIT).expect("a connection");
        assert_eq!(connection.call(&["AUTH", PASSWORD]).expect("a reply"), Reply::Text("OK".into()));
        connection
    };
    for number in 0..2 {
        let mut connection = open(number);
        wait::until("both endpoints know each other", LIMIT, || {
            let list = connection.call(&["SENTINEL", "sentinels", "posts"]).map_err(|e| e.to_string())?;
            wait::holds(list.list().len() == 2, || format!("{list:?}"))
        });
    }
    let ends = Ends { dead: ports::free(), live: endpoints.map(|endpoint| endpoint.port()) };
    let mut clients = start_all(&ends, first.port());
    let mut all_write = |group: &Group, primary: &Endpoint| {
        clients.iter_mut().for_each(|client| client.writes_to(group, primary));
    };
    all_write(&group, &first);

    // The primary is killed.
    let killed = group.number_of(&first);
    group.redis[killed].kill();
    let second = after_another_primary(&group, &first);
    all_write(&group, &second);
    group.redis[killed].restart();
    group.settled();

    // A planned change; the old primary lives.
    let active = group.wait_for_active();
    assert_eq!(
        open(active).call(&["SENTINEL", "failover", "posts"]).expect("a reply"),
        Reply::Text("OK".into())
    );
    let third = after_another_primary(&group, &second);
    all_write(&group, &third);
    group.settled();

    // One endpoint is gone for good, that of the monitor that leads; then the primary is killed once more.
    group.monitors[active].process().kill();
    group.wait_until_leading(1 - active);
    all_write(&group, &third);
    group.settled();
    let killed = group.number_of(&third);
    group.redis[killed].kill();
    let last = after_another_primary(&group, &third);
    all_write(&group, &last);

    for client in &clients {
        let lines = client.lines();
        let count = |word: &str| lines.iter().filter(|line| line.starts_with(word)).count();
        println!("{}: {} acknowledged, {} failed", client.name, count("wrote"), count("not written"));
    }
}
