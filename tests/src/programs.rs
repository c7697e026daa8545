//! The programs of this workspace: built once per run, started with files made of sections and keys.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::http::{self, Answer, Request};
use crate::process::Start;
use crate::{Host, Process, WorkDir, machine, process, wait, workdir};

/// How long a program may take for an HTTP answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A configuration file in the making: section, key, value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ini(BTreeMap<String, BTreeMap<String, String>>);

impl Ini {
    /// Without any key.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets one key; replaces an earlier value.
    #[must_use]
    pub fn set(mut self, section: &str, key: &str, value: impl ToString) -> Self {
        self.0.entry(section.to_owned()).or_default().insert(key.to_owned(), value.to_string());
        self
    }

    /// Without this key.
    #[must_use]
    pub fn without(mut self, section: &str, key: &str) -> Self {
        if let Some(keys) = self.0.get_mut(section) {
            keys.remove(key);
        }
        self
    }

    /// With all keys of `other`, which wins.
    #[must_use]
    pub fn and(mut self, other: &Ini) -> Self {
        for (section, keys) in &other.0 {
            self.0.entry(section.clone()).or_default().extend(keys.clone());
        }
        self
    }

    /// The value of a key.
    pub fn get(&self, section: &str, key: &str) -> Option<&str> {
        self.0.get(section)?.get(key).map(String::as_str)
    }

    /// The text of the file.
    pub fn text(&self) -> String {
        let section = |(name, keys): (&String, &BTreeMap<String, String>)| {
            let lines: String = keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
            format!("[{name}]\n{lines}\n")
        };
        self.0.iter().map(section).collect()
    }
}

/// A program that serves HTTP: a monitor or an API.
#[derive(Debug)]
pub struct Program {
    kind: &'static str,
    name: String,
    host: Host,
    dir: WorkDir,
    file: PathBuf,
    env: Vec<(String, String)>,
    http: SocketAddr,
    process: Process,
}

/// What a program is started from.
#[derive(Debug, Clone)]
pub struct Launch<'a> {
    /// `monitor` or `api`.
    pub kind: &'static str,
    /// For messages and file names.
    pub name: &'a str,
    /// Where it runs.
    pub host: &'a Host,
    /// Its file.
    pub ini: &'a Ini,
    /// Further environment variables.
    pub env: &'a [(String, String)],
    /// Where its HTTP answers (as in its file).
    pub http: SocketAddr,
}

impl Program {
    /// Starts it and does not wait for anything.
    #[track_caller]
    pub fn start(launch: &Launch<'_>) -> Self {
        let dir = WorkDir::new(launch.name);
        let file = dir.join(&format!("{}.ini", launch.kind));
        fs::write(&file, launch.ini.text()).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let process = start(launch.kind, launch.name, launch.host, &dir, &file, launch.env);
        Self {
            kind: launch.kind,
            name: launch.name.to_owned(),
            host: launch.host.clone(),
            dir,
            file,
            env: launch.env.to_vec(),
            http: launch.http,
            process,
        }
    }

    /// Its process: signals, output.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The name it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it runs.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Where its HTTP answers.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Its configuration file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Starts it again after its end (killing it if need be), with the same file.
    #[track_caller]
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = start(self.kind, &self.name, &self.host, &self.dir, &self.file, &self.env);
    }

    /// The environment of the next start.
    pub fn set_env(&mut self, env: &[(&str, &str)]) {
        self.env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    }

    /// Replaces its file; read at the next start.
    #[track_caller]
    pub fn write_file(&self, text: &str) {
        fs::write(&self.file, text).unwrap_or_else(|e| panic!("{}: {e}", self.file.display()));
    }

    /// One request, asked on the program's own host.
    pub fn call(&self, request: Request<'_>) -> std::io::Result<Answer> {
        http::call(&self.host, self.http, request, ANSWER_LIMIT)
    }

    /// A GET; panics if there is no answer.
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        match self.call(Request::get(path)) {
            Ok(answer) => answer,
            Err(e) => panic!("{}: GET {path}: {e}", self.name),
        }
    }

    /// One metric: the value of the first sample whose line begins with this text (name, or name and labels).
    pub fn metric(&self, begin: &str) -> Option<f64> {
        let text = self.call(Request::get("/metrics")).ok()?.text();
        text.lines().find(|line| line.starts_with(begin))?.rsplit(' ').next()?.parse().ok()
    }

    /// Waits until `/readyz` is 200.
    #[track_caller]
    pub fn wait_until_ready(&mut self, limit: Duration) {
        let what = format!("{} ready", self.name);
        wait::until(&what, limit, || {
            if let Some(status) = self.process.poll() {
                panic!("{} has ended ({status}): {}", self.name, self.process.log());
            }
            let answer = self.call(Request::get("/readyz")).map_err(|e| e.to_string())?;
            wait::holds(answer.status == 200, || format!("{}: {}", answer.status, answer.text()))
        });
    }

    /// The services as a monitor shows them.
    #[track_caller]
    pub fn services(&self) -> Vec<Value> {
        let shown = self.get("/services").json();
        let list = shown.get("services").unwrap_or(&shown);
        list.as_array().cloned().unwrap_or_else(|| panic!("{}: /services is no list: {shown}", self.name))
    }
}

#[track_caller]
fn start(
    kind: &str,
    name: &str,
    host: &Host,
    dir: &WorkDir,
    file: &Path,
    env: &[(String, String)],
) -> Process {
    let mut command = command(kind);
    command.arg(file).envs(env.iter().map(|(key, value)| (key, value)));
    let started = Process::start(Start { name, command, host, dir });
    started.unwrap_or_else(|e| panic!("cannot start {kind}: {e}"))
}

/// Runs a program to its end: its exit code and all that it printed.
#[track_caller]
pub fn run(program: &str, arguments: &[&str], limit: Duration) -> (i32, String) {
    run_on(&Host::local(), program, arguments, &[], limit)
}

/// The same on a host and with environment variables.
#[track_caller]
pub fn run_on(
    host: &Host,
    program: &str,
    arguments: &[&str],
    env: &[(&str, &str)],
    limit: Duration,
) -> (i32, String) {
    let mut command = command(program);
    command.args(arguments).envs(env.iter().copied());
    let begun = Instant::now();
    let ended = process::run_to_end(program, command, host, limit);
    let excuse = || machine::excuse(begun, Instant::now());
    ended.unwrap_or_else(|e| panic!("{program} {arguments:?}: {e}{}", excuse()))
}

/// The same for what ends well unless it runs out of time.
#[track_caller]
pub fn run_well(program: &str, arguments: &[&str], limit: Duration) -> String {
    let begun = Instant::now();
    let (code, said) = run(program, arguments, limit);
    assert_eq!(code, 0, "{said}{}", machine::excuse(begun, Instant::now()));
    said
}

/// Starts a program that serves no HTTP; it is stopped when its owner drops it.
#[track_caller]
pub fn spawn(host: &Host, name: &str, program: &str, arguments: &[&str]) -> Process {
    let dir = WorkDir::new(name);
    let mut command = command(program);
    command.args(arguments);
    let started = Process::start(Start { name, command, host, dir: &dir });
    started.unwrap_or_else(|e| panic!("cannot start {program}: {e}"))
}

/// A command for a program of ours. What the caller's environment says to Albireo does not reach it.
fn command(program: &str) -> Command {
    let mut command = Command::new(path_of(program));
    for (key, _) in std::env::vars_os() {
        if key.to_str().is_some_and(|key| key.starts_with("ALBIREO_")) {
            command.env_remove(key);
        }
    }
    command
}

/// Where a built program is. The first call builds them, in the profile and directory of this very program;
/// `ALBIREO_PROGRAMS` names a directory with built ones instead.
pub fn path_of(program: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(build).join(program)
}

fn build() -> PathBuf {
    if let Some(dir) = std::env::var_os("ALBIREO_PROGRAMS") {
        return PathBuf::from(dir);
    }
    let dir = workdir::profile_dir();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // The whole workspace, as in `make test`: a part of it would want its dependencies with other features.
    cargo.args(["build", "--quiet", "--workspace", "--bins"]);
    if cfg!(feature = "zookeeper-tls") {
        cargo.args(["--features", "zookeeper-tls"]);
    }
    cargo.arg("--manifest-path").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"));
    cargo.arg("--target-dir").arg(workdir::target_dir());
    if dir.ends_with("release") {
        cargo.arg("--release");
    }
    let built = cargo.status().unwrap_or_else(|e| panic!("cannot run cargo: {e}"));
    assert!(built.success(), "the programs do not build");
    dir
}
