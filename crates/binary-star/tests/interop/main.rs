//! The examples keep a pair with programs in another language: Rust and Python (pyzmq) on both sides of the wire,
//! as servers and as clients, through a failover and back.
//!
//! pyzmq comes from the system's Python or from a virtual environment below the target directory. Where it cannot be
//! installed each test says so in one line that begins with `skipped:`.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests wait for real time, and fail by panicking"
)]

#[path = "../common/mod.rs"]
mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};

use binary_star::Role;
use common::{Ports, tcp, until};

const HEARTBEAT_MS: &str = "200";

#[derive(Clone, Copy)]
enum Language {
    Rust,
    Python,
}
use Language::{Python, Rust};

#[test]
fn rust_primary_python_backup_rust_client() {
    a_failover_and_back(Rust, Python, Rust);
}

#[test]
fn python_primary_rust_backup_python_client() {
    a_failover_and_back(Python, Rust, Python);
}

fn a_failover_and_back(primary: Language, backup: Language, client: Language) {
    let Some(world) = World::prepare() else { return };
    let ports = Ports::free();
    let first = world.server(primary, Role::Primary, &ports);
    let second = world.server(backup, Role::Backup, &ports);
    first.until_says(&["connected to backup (passive), ready as active", "state ACTIVE"]);
    second.until_says(&["connected to primary (active), ready as passive", "state PASSIVE"]);
    let client = world.client(client, &ports);
    client.until_says(&["I: server replied OK (1)"]);

    drop(first);
    client.until_says(&["W: no response from server, failing over"]);
    second.until_says(&["failover successful, ready as active", "state ACTIVE"]);
    client.until_another_reply();

    let first = world.server(primary, Role::Primary, &ports);
    first.until_says(&["connected to backup (active), ready as passive", "state PASSIVE"]);
    client.until_another_reply();
    drop(second);
    first.until_says(&["failover successful, ready as active", "state ACTIVE"]);
    client.until_another_reply();
}

/// The programs under test.
struct World {
    examples: PathBuf,
    python: &'static Path,
}

impl World {
    /// Nothing, with a line that says why, where pyzmq cannot be had.
    fn prepare() -> Option<Self> {
        static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        match PYTHON.get_or_init(python_with_zmq) {
            Ok(python) => Some(World { examples: built_examples(), python }),
            Err(why) => {
                // Past the test runner's capture, which shows nothing of a test that passes.
                writeln!(std::io::stderr(), "skipped: Binary Star interop, no pyzmq: {why}").ok();
                None
            }
        }
    }

    fn server(&self, language: Language, role: Role, ports: &Ports) -> Program {
        let (flag, name) = match role {
            Role::Primary => ("-p", "primary"),
            Role::Backup => ("-b", "backup"),
        };
        let options = ports.options(role);
        let (bind, peer, voter) = (options.bind, options.peer.unwrap(), options.voter.unwrap());
        match language {
            Rust => {
                let program = self.examples.join("bstarsrv");
                let ends = ["--bind", &bind, "--peer", &peer, "--voter", &voter];
                Program::start(&program, &[&[flag], &ends[..], &["--heartbeat-ms", HEARTBEAT_MS]].concat())
            }
            Python => self.python(&["server", name, &bind, &peer, &voter, HEARTBEAT_MS]),
        }
    }

    fn client(&self, language: Language, ports: &Ports) -> Program {
        let servers = [&*tcp(ports.primary_voter), &*tcp(ports.backup_voter)];
        match language {
            Rust => Program::start(&self.examples.join("bstarcli"), &servers),
            Python => self.python(&["client", servers[0], servers[1]]),
        }
    }

    fn python(&self, arguments: &[&str]) -> Program {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/peer.py");
        Program::start(self.python, &[&[script], arguments].concat())
    }
}

/// `target`, three levels above this program in `target/PROFILE/deps`.
fn target_dir() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_path_buf()
}

/// Built here, since `cargo test --test interop` alone does not.
fn built_examples() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let deps = std::env::current_exe().unwrap();
        let profile = deps.ancestors().nth(2).unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["build", "--quiet", "--package", "binary-star", "--examples", "--target-dir"])
            .arg(target_dir());
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
        profile.join("examples")
    };
    BUILT.get_or_init(build).clone()
}

fn python_with_zmq() -> Result<PathBuf, String> {
    // The distribution's own interpreter first: its package python3-zmq is not seen by any other.
    let candidates = ["/usr/bin/python3", "python3"].map(PathBuf::from);
    let knows_zmq = |python: &PathBuf| run(Command::new(python).args(["-c", "import zmq"])).is_ok();
    candidates
        .into_iter()
        .find(knows_zmq)
        .ok_or_else(|| "no python3 with zmq (package python3-zmq)".to_owned())
}

/// Runs it to its end; an error is the last line that it wrote.
fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|why| why.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(String::from_utf8_lossy(&text).lines().last().unwrap_or("failed").to_owned())
}

/// A process and what it printed. Killed when dropped, and by the kernel when this process dies.
struct Program {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Program {
    fn start(program: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::default();
        collect(child.stdout.take().unwrap(), &lines);
        collect(child.stderr.take().unwrap(), &lines);
        Program { child, lines }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits for a line with any of these texts.
    #[track_caller]
    fn until_says(&self, texts: &[&str]) {
        let said = || self.lines().iter().any(|line| texts.iter().any(|text| line.contains(text)));
        until(&format!("{texts:?}"), said);
    }

    #[track_caller]
    fn until_another_reply(&self) {
        let replies = || self.lines().iter().filter(|line| line.starts_with("I: server replied OK")).count();
        let now = replies();
        until("a reply", || replies() > now + 1);
    }
}

fn collect(pipe: impl Read + Send + 'static, lines: &Arc<Mutex<Vec<String>>>) {
    let lines = Arc::clone(lines);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            lines.lock().unwrap().push(line);
        }
    });
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("{:?} printed {:#?}", self.child.id(), self.lines());
        }
    }
}
