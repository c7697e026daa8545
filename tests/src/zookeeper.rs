//! A real ZooKeeper server, and what tests do to its znodes by hand.
//!
//! It runs from the jars of Debian's package `zookeeper`; `TEST_ZOOKEEPER_HOME` names an unpacked release instead.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

pub use zookeeper_client::Error;
use zookeeper_client::{Acls, Client, CreateMode};

use crate::certificates::Certificates;
use crate::process::Start;
use crate::{Host, Process, WorkDir, wait};

const START_LIMIT: Duration = Duration::from_secs(60);
/// One operation, the connection included.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Debian's jars; the first one's manifest names what else it needs.
const DEBIAN_JARS: [&str; 3] = ["zookeeper.jar", "slf4j-log4j12.jar", "log4j-1.2.jar"];
/// And what it forgets, for TLS.
const NETTY_JARS: [&str; 3] =
    ["netty-codec.jar", "netty-resolver.jar", "netty-transport-native-unix-common.jar"];

/// One standalone server, or the first of an ensemble.
#[derive(Debug)]
pub struct ZooKeeper {
    host: Host,
    port: u16,
    dir: WorkDir,
    process: Process,
    /// What an ensemble, or TLS, adds to the configuration of this server.
    further: String,
    /// Where programs connect, by TLS; the test itself does so in plain words.
    secure: Option<(u16, Certificates)>,
    /// `user:password` of the test's own questions.
    auth: Option<String>,
    /// The other servers of the ensemble, known to the first one only.
    others: Vec<ZooKeeper>,
}

/// What stands in a znode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Znode {
    /// Its content.
    pub data: Vec<u8>,
    /// How often it was written.
    pub version: i32,
    /// The session that it dies with; 0 if it stays.
    pub owner: i64,
}

impl Znode {
    /// Its content as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.data).into_owned()
    }

    /// Its content as JSON; `null` if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.data).unwrap_or_default()
    }
}

impl ZooKeeper {
    /// A server on loopback, empty.
    #[track_caller]
    pub fn start() -> Self {
        Self::start_on(&Host::local())
    }

    /// A server on this host, empty.
    #[track_caller]
    pub fn start_on(host: &Host) -> Self {
        let mut server = Self::launched(host, 1, String::new());
        server.wait_until_up();
        server
    }

    /// A server on loopback that programs reach by TLS, and only with a certificate that `ca.pem` has signed; the test itself
    /// asks at another port.
    #[track_caller]
    pub fn start_secure(certificates: &Certificates) -> Self {
        let host = Host::local();
        let secure = host.free_port();
        let store = certificates.joined("zookeeper.pem", &["server.key", "server.pem"]);
        let lines = format!(
            "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n\
             secureClientPort={secure}\nsecureClientPortAddress={}\n\
             ssl.keyStore.location={store}\nssl.trustStore.location={}\nssl.clientAuth=need\n",
            host.ip(),
            certificates.text("ca.pem")
        );
        let mut server = Self::launched(&host, 1, lines);
        server.secure = Some((secure, certificates.clone()));
        server.wait_until_up();
        server
    }

    /// So many servers on this host that agree with each other; [`ZooKeeper::server`] gives each of them.
    #[track_caller]
    pub fn start_ensemble(host: &Host, number: usize) -> Self {
        let lines: Vec<String> = (1..=number)
            .map(|id| format!("server.{id}={}:{}:{}\n", host.ip(), host.free_port(), host.free_port()))
            .collect();
        let text = format!("initLimit=10\nsyncLimit=5\n{}", lines.concat());
        let mut servers: Vec<Self> = (1..=number).map(|id| Self::launched(host, id, text.clone())).collect();
        servers.iter_mut().for_each(Self::wait_until_up);
        let mut first = servers.remove(0);
        first.others = servers;
        first
    }

    #[track_caller]
    fn launched(host: &Host, id: usize, further: String) -> Self {
        let port = host.free_port();
        let dir = WorkDir::new(&format!("zookeeper-{port}"));
        let data = dir.join("data");
        fs::create_dir_all(&data).unwrap_or_else(|e| panic!("{}: {e}", data.display()));
        fs::write(data.join("myid"), id.to_string()).unwrap_or_else(|e| panic!("{}: {e}", data.display()));
        let process = launch(host, port, &dir, &further);
        let (host, others) = (host.clone(), Vec::new());
        Self { host, port, dir, process, further, secure: None, auth: None, others }
    }

    /// How many servers there are.
    pub fn servers(&self) -> usize {
        1 + self.others.len()
    }

    /// One of them, from 0.
    #[track_caller]
    pub fn server(&mut self, number: usize) -> &mut Self {
        match number.checked_sub(1) {
            None => self,
            Some(at) => &mut self.others[at],
        }
    }

    /// Which of them leads the ensemble; the first one that is alone does.
    #[track_caller]
    pub fn leader(&self) -> usize {
        wait::until("a ZooKeeper server that leads", START_LIMIT, || {
            let all = std::iter::once(self).chain(&self.others);
            let leads = |one: &Self| {
                one.word("srvr")
                    .is_ok_and(|said| said.contains("Mode: leader") || said.contains("Mode: standalone"))
            };
            all.map(leads).position(|leads| leads).ok_or("none")
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.host.at(self.port)
    }

    /// The value of the key `hosts`: all of them.
    pub fn hosts(&self) -> String {
        match &self.secure {
            Some((port, _)) => self.host.at(*port).to_string(),
            None => self.plain_hosts(),
        }
    }

    fn plain_hosts(&self) -> String {
        let all = std::iter::once(self).chain(&self.others);
        all.map(|one| one.addr().to_string()).collect::<Vec<_>>().join(",")
    }

    /// From now on the test asks as this user (`user:password`), or as nobody in particular.
    pub fn log_in(&mut self, auth: Option<&str>) {
        self.auth = auth.map(str::to_owned);
    }

    /// Its process: signals, output.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// SIGTERM.
    pub fn stop(&mut self) {
        self.process.terminate(Duration::from_secs(10));
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGSTOP.
    pub fn pause(&mut self) {
        self.process.pause();
    }

    /// SIGCONT.
    pub fn resume(&mut self) {
        self.process.resume();
    }

    /// Starts it again (killing it if need be) with its data, and waits until it serves.
    #[track_caller]
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = launch(&self.host, self.port, &self.dir, &self.further);
        self.wait_until_up();
    }

    /// What a four-letter word answers.
    pub fn word(&self, word: &str) -> io::Result<String> {
        let mut stream = self.host.connect(self.addr(), Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(word.as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// What stands at `path`; nothing if there is no such znode.
    #[track_caller]
    pub fn get(&self, path: &str) -> Option<Znode> {
        match self.try_get(path) {
            Ok(znode) => znode,
            Err(e) => panic!("zookeeper get {path}: {e}"),
        }
    }

    /// The same, with the reason why it cannot be read.
    pub fn try_get(&self, path: &str) -> Result<Option<Znode>, Error> {
        match self.with_client(async |client| client.get_data(path).await) {
            Ok((data, stat)) => Ok(Some(Znode { data, version: stat.version, owner: stat.ephemeral_owner })),
            Err(Error::NoNode) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Writes `path` whatever its version; it must be there.
    #[track_caller]
    pub fn set(&self, path: &str, data: &str) {
        self.try_set(path, data).unwrap_or_else(|e| panic!("zookeeper set {path}: {e}"));
    }

    /// The same, with the reason why it cannot be written.
    pub fn try_set(&self, path: &str, data: &str) -> Result<(), Error> {
        self.with_client(async |client| client.set_data(path, data.as_bytes(), None).await.map(drop))
    }

    /// Creates `path` with missing parents; it must not be there.
    #[track_caller]
    pub fn create(&self, path: &str, data: &str) {
        let done = self.with_client(async |client| {
            let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
            if let Some((parent, _)) = path.rsplit_once('/').filter(|(parent, _)| !parent.is_empty()) {
                client.mkdir(parent, &options).await?;
            }
            client.create(path, data.as_bytes(), &options).await.map(|_| ())
        });
        done.unwrap_or_else(|e| panic!("zookeeper create {path}: {e}"));
    }

    /// How long each of so many writes of `path` takes, one after the other in one session; it must be there.
    #[track_caller]
    pub fn timed_writes(&self, path: &str, number: usize) -> Vec<Duration> {
        let done = self.with_client(async |client| {
            let mut took = Vec::with_capacity(number);
            for _ in 0..number {
                let begun = Instant::now();
                client.set_data(path, b"sixteen bytes ok", None).await?;
                took.push(begun.elapsed());
            }
            Ok(took)
        });
        done.unwrap_or_else(|e| panic!("zookeeper set {path}: {e}"))
    }

    /// Creates all of these, below one parent that is made first, in one session: for thousands of them.
    #[track_caller]
    pub fn create_all(&self, parent: &str, children: &[(String, String)]) {
        let done = self.with_client(async |client| {
            let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
            client.mkdir(parent, &options).await?;
            for (name, data) in children {
                client.create(&format!("{parent}/{name}"), data.as_bytes(), &options).await?;
            }
            Ok(())
        });
        done.unwrap_or_else(|e| panic!("zookeeper create below {parent}: {e}"));
    }

    /// What stands at each of these, in one session.
    #[track_caller]
    pub fn get_all(&self, paths: &[String]) -> Vec<Option<Znode>> {
        let read = self.with_client(async |client| {
            let mut all = Vec::with_capacity(paths.len());
            for path in paths {
                all.push(match client.get_data(path).await {
                    Ok((data, stat)) => {
                        Some(Znode { data, version: stat.version, owner: stat.ephemeral_owner })
                    }
                    Err(Error::NoNode) => None,
                    Err(e) => return Err(e),
                });
            }
            Ok(all)
        });
        read.unwrap_or_else(|e| panic!("zookeeper get: {e}"))
    }

    /// Deletes `path`, which must be there and have no children.
    #[track_caller]
    pub fn delete(&self, path: &str) {
        let done = self.with_client(async |client| client.delete(path, None).await);
        done.unwrap_or_else(|e| panic!("zookeeper delete {path}: {e}"));
    }

    /// The names of the children, sorted; none if `path` is not there.
    #[track_caller]
    pub fn children(&self, path: &str) -> Vec<String> {
        match self.with_client(async |client| client.list_children(path).await) {
            Ok(mut names) => {
                names.sort();
                names
            }
            Err(Error::NoNode) => Vec::new(),
            Err(e) => panic!("zookeeper children of {path}: {e}"),
        }
    }

    /// One short session: connect, do it, close.
    fn with_client<T: Send>(
        &self,
        work: impl AsyncFnOnce(&Client) -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        let hosts = self.plain_hosts();
        self.host.run(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.unwrap_or_else(|e| panic!("no runtime: {e}"));
            runtime.block_on(async {
                let call = async {
                    let mut connector = Client::connector().with_fail_eagerly();
                    if let Some(auth) = &self.auth {
                        connector = connector.with_auth("digest", auth.as_bytes());
                    }
                    let client = connector.with_session_timeout(CALL_LIMIT).connect(&hosts).await?;
                    work(&client).await
                };
                tokio::time::timeout(CALL_LIMIT, call).await.unwrap_or(Err(Error::Timeout))
            })
        })
    }

    #[track_caller]
    fn wait_until_up(&mut self) {
        let addr = self.addr();
        wait::until(&format!("zookeeper {addr}"), START_LIMIT, || {
            if let Some(status) = self.process.poll() {
                panic!("zookeeper has ended ({status}): {}", self.process.log());
            }
            let answer = self.word("srvr").map_err(|e| e.to_string())?;
            wait::holds(answer.contains("Mode:"), || answer)
        });
        // A virtual machine that has just started takes seconds for its first handshake where other work is done.
        if let Some((_, certificates)) = &self.secure {
            let at = self.hosts();
            wait::until(&format!("TLS with zookeeper {at}"), START_LIMIT, || certificates.is_spoken_at(&at));
        }
    }
}

#[track_caller]
fn launch(host: &Host, port: u16, dir: &WorkDir, further: &str) -> Process {
    let file = dir.join("zoo.cfg");
    let text = format!(
        "tickTime=2000\ndataDir={}\nclientPort={port}\nclientPortAddress={}\nmaxClientCnxns=0\n\
         admin.enableServer=false\n4lw.commands.whitelist=*\n{further}",
        dir.join("data").display(),
        host.ip()
    );
    fs::write(&file, text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let logging = dir.join("log4j.properties");
    fs::write(&logging, LOGGING).unwrap_or_else(|e| panic!("{}: {e}", logging.display()));
    let mut command = Command::new("java");
    command
        .args(["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"])
        .arg(format!("-Dlog4j.configuration=file:{}", logging.display()))
        .args(["-cp", &class_path()])
        .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
        .arg(&file);
    let name = format!("zookeeper-{port}");
    let started = Process::start(Start { name: &name, command, host, dir });
    started.unwrap_or_else(|e| panic!("cannot start java for ZooKeeper: {e}"))
}

const LOGGING: &str = "log4j.rootLogger=WARN, OUT\nlog4j.appender.OUT=org.apache.log4j.ConsoleAppender\n\
    log4j.appender.OUT.layout=org.apache.log4j.PatternLayout\nlog4j.appender.OUT.layout.ConversionPattern=%d %p %m%n\n";

#[track_caller]
fn class_path() -> String {
    if let Some(home) = std::env::var_os("TEST_ZOOKEEPER_HOME") {
        let home = PathBuf::from(home).display().to_string();
        return format!("{home}/*:{home}/lib/*");
    }
    let jars = DEBIAN_JARS.map(|jar| format!("/usr/share/java/{jar}"));
    if let Some(missing) = jars.iter().find(|jar| !Path::new(jar).exists()) {
        panic!("{missing} is missing: install the package zookeeper, or set TEST_ZOOKEEPER_HOME");
    }
    jars.into_iter()
        .chain(NETTY_JARS.map(|jar| format!("/usr/share/java/{jar}")))
        .collect::<Vec<_>>()
        .join(":")
}
