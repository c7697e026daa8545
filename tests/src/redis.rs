//! A real Redis server. `TEST_REDIS_SERVER` names another binary than the one on the path.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use crate::certificates::Certificates;
use crate::process::Start;
use crate::resp::{Connection, Reply};
use crate::{Host, Process, WorkDir, wait};

const START_LIMIT: Duration = Duration::from_secs(20);

/// One server, and its address, directory and settings, which outlive its process.
#[derive(Debug)]
pub struct Redis {
    settings: Settings,
    dir: WorkDir,
    process: Process,
}

/// How to start a server.
#[derive(Debug, Clone)]
pub struct Settings {
    host: Host,
    port: u16,
    lines: Vec<String>,
    replica_of: Option<SocketAddr>,
    tls: Option<(u16, Certificates)>,
    /// User and password of the test's own questions.
    login: Option<(String, String)>,
}

impl Default for Settings {
    fn default() -> Self {
        Self::on(&Host::local())
    }
}

impl Settings {
    /// A primary on a free port of this host, without persistence.
    pub fn on(host: &Host) -> Self {
        Self {
            host: host.clone(),
            port: host.free_port(),
            lines: Vec::new(),
            replica_of: None,
            tls: None,
            login: None,
        }
    }

    /// A further line of its configuration file; later lines win.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    /// The address by which it is known takes TLS only, also for replication, and wants to know its clients. The plain port
    /// stays for the test's own questions.
    #[must_use]
    pub fn tls(mut self, certificates: &Certificates) -> Self {
        self.tls = Some((self.host.free_port(), certificates.clone()));
        self
    }

    /// Nobody gets in without a user: `default` is off, and the test asks as this one, who may do everything. The others
    /// are lines of the file ([`Settings::line`]).
    #[must_use]
    pub fn closed(mut self, user: &str, password: &str) -> Self {
        self.login = Some((user.to_owned(), password.to_owned()));
        self.line("user default off").line(&format!("user {user} on >{password} ~* &* +@all"))
    }

    /// Starts as replica of this server.
    #[must_use]
    pub fn replica_of(mut self, primary: SocketAddr) -> Self {
        self.replica_of = Some(primary);
        self
    }

    /// Starts as replica of nobody, as is wise for servers with persistence.
    #[must_use]
    pub fn replica_of_nobody(mut self) -> Self {
        self.replica_of = None;
        self
    }

    /// Another port than the free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Starts it and waits until it answers.
    #[track_caller]
    pub fn start(self) -> Redis {
        let dir = WorkDir::new(&format!("redis-{}", self.port));
        let process = launch(&self, &dir);
        let mut redis = Redis { settings: self, dir, process };
        redis.wait_until_up();
        redis
    }

    fn configuration(&self, dir: &WorkDir) -> String {
        let mut text = format!(
            "bind {}\nport {}\ndir {}\nprotected-mode no\nsave \"\"\nappendonly no\nrepl-diskless-sync-delay 0\n",
            self.host.ip(),
            self.port,
            dir.path().display()
        );
        if let Some((port, files)) = &self.tls {
            let (certificate, key, ca) =
                (files.text("server.pem"), files.text("server.key"), files.text("ca.pem"));
            text += &format!("tls-port {port}\ntls-cert-file {certificate}\ntls-key-file {key}\n");
            text += &format!("tls-ca-cert-file {ca}\ntls-replication yes\ntls-auth-clients yes\n");
        }
        if let Some(primary) = self.replica_of {
            text += &format!("replicaof {} {}\n", primary.ip(), primary.port());
        }
        for line in &self.lines {
            text += line;
            text += "\n";
        }
        text
    }
}

impl Redis {
    /// A primary on loopback.
    #[track_caller]
    pub fn start() -> Self {
        Settings::default().start()
    }

    /// Where it listens without TLS.
    pub fn addr(&self) -> SocketAddr {
        self.settings.host.at(self.settings.port)
    }

    /// Where others reach it.
    pub fn known_as(&self) -> SocketAddr {
        self.settings.tls.as_ref().map_or(self.addr(), |(port, _)| self.settings.host.at(*port))
    }

    /// The same as Albireo writes it.
    pub fn endpoint(&self) -> topology::Endpoint {
        self.known_as().into()
    }

    /// Where it runs.
    pub fn host(&self) -> &Host {
        &self.settings.host
    }

    /// Its process: signals, output.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
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

    /// Starts it again after its end (killing it if need be), with the data that it saved, and waits until it answers.
    #[track_caller]
    pub fn restart(&mut self) {
        self.restart_unseen();
        self.wait_until_up();
    }

    /// The same with nothing on its disk.
    #[track_caller]
    pub fn restart_empty(&mut self) {
        self.kill();
        self.erase();
        self.restart();
    }

    /// Starts it again and does not wait for an answer: for servers that will be loading.
    #[track_caller]
    pub fn restart_unseen(&mut self) {
        self.process.kill();
        self.process = launch(&self.settings, &self.dir);
    }

    /// Removes what it saved; its log stays.
    pub fn erase(&self) {
        for entry in fs::read_dir(self.dir.path()).into_iter().flatten().flatten() {
            let path = entry.path();
            let kept = path.extension().is_some_and(|e| e == "log" || e == "conf");
            let _ = if kept {
                Ok(())
            } else if path.is_dir() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            };
        }
    }

    /// Changes how it starts the next time.
    pub fn change(&mut self, change: impl FnOnce(Settings) -> Settings) {
        self.settings = change(self.settings.clone());
    }

    /// A connection of its own, opened on the server's own host.
    pub fn connect(&self) -> io::Result<Connection> {
        let mut connection = Connection::open(&self.settings.host, self.addr(), Duration::from_secs(5))?;
        if let Some((user, password)) = &self.settings.login {
            let reply = connection.call(&["AUTH", user, password])?;
            if reply != Reply::Text("OK".to_owned()) {
                return Err(io::Error::other(format!("AUTH {user}: {reply:?}")));
            }
        }
        Ok(connection)
    }

    /// One command on a connection of its own.
    pub fn try_cmd(&self, words: &[&str]) -> io::Result<Reply> {
        self.connect()?.call(words)
    }

    /// The same; panics if there is no answer.
    #[track_caller]
    pub fn cmd(&self, words: &[&str]) -> Reply {
        match self.try_cmd(words) {
            Ok(reply) => reply,
            Err(e) => panic!("redis {}: {words:?}: {e}", self.addr()),
        }
    }

    /// One field of `INFO`.
    pub fn try_info(&self, field: &str) -> io::Result<String> {
        let info = self.try_cmd(&["INFO", "everything"])?;
        let Reply::Text(text) = info else { return Err(io::Error::other(format!("INFO: {info:?}"))) };
        let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.map(str::to_owned).ok_or_else(|| io::Error::other(format!("INFO has no {field}")))
    }

    /// The same; panics if there is none.
    #[track_caller]
    pub fn info(&self, field: &str) -> String {
        match self.try_info(field) {
            Ok(value) => value,
            Err(e) => panic!("redis {}: {e}", self.addr()),
        }
    }

    /// Whether it says that it is a master.
    pub fn is_primary(&self) -> bool {
        self.try_info("role").is_ok_and(|role| role == "master")
    }

    /// Whom it follows, if it is a replica whose link is up.
    pub fn follows(&self) -> Option<String> {
        let up = self.try_info("role").ok()? == "slave" && self.try_info("master_link_status").ok()? == "up";
        let host = self.try_info("master_host").ok()?;
        up.then(|| format!("{host}:{}", self.try_info("master_port").unwrap_or_default()))
    }

    /// How many keys it holds that are not Albireo's own.
    #[track_caller]
    pub fn user_keys(&self) -> usize {
        let keys = self.cmd(&["KEYS", "*"]);
        keys.list().iter().filter(|key| !key.text().starts_with("albireo:")).count()
    }

    /// Waits until it answers PING with PONG.
    #[track_caller]
    pub fn wait_until_up(&mut self) {
        let (settings, process) = (&self.settings, &mut self.process);
        let addr = settings.host.at(settings.port);
        wait::until(&format!("redis {addr}"), START_LIMIT, || {
            if let Some(status) = process.poll() {
                panic!("redis {addr} has ended ({status}): {}", process.log());
            }
            let mut connection = Connection::open(&settings.host, addr, Duration::from_secs(1))?;
            let reply = connection.call(&["PING"])?;
            // NOAUTH: up, and it wants a password.
            let up = reply == Reply::Text("PONG".to_owned()) || reply.is_error("NOAUTH");
            if up { Ok(()) } else { Err(io::Error::other(format!("{reply:?}"))) }
        });
    }
}

#[track_caller]
fn launch(settings: &Settings, dir: &WorkDir) -> Process {
    let file = dir.join("redis.conf");
    let binary = std::env::var_os("TEST_REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
    fs::write(&file, settings.configuration(dir)).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let mut command = Command::new(&binary);
    command.arg(&file);
    let name = format!("redis-{}", settings.port);
    let started = Process::start(Start { name: &name, command, host: &settings.host, dir });
    started.unwrap_or_else(|e| panic!("cannot start {}: {e}", binary.display()))
}
