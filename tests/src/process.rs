//! One child process. It is stopped when its owner is dropped, and by the kernel when this whole process dies.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Host, WorkDir, machine, wait, workdir};

/// The signals that tests send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Ends it without its knowledge.
    Kill,
    /// Asks it to end.
    Term,
    /// Asks it to end, as Ctrl-C does.
    Int,
    /// Asks it to read its file again.
    Hup,
    /// Stops it where it is.
    Stop,
    /// Lets it go on.
    Cont,
}

impl Signal {
    fn number(self) -> libc::c_int {
        match self {
            Signal::Kill => libc::SIGKILL,
            Signal::Term => libc::SIGTERM,
            Signal::Int => libc::SIGINT,
            Signal::Hup => libc::SIGHUP,
            Signal::Stop => libc::SIGSTOP,
            Signal::Cont => libc::SIGCONT,
        }
    }
}

/// What to start.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    /// For messages and file names.
    pub(crate) name: &'a str,
    pub(crate) command: Command,
    pub(crate) host: &'a Host,
    /// Its working directory; its output goes to `NAME.log` in it, behind what is there.
    pub(crate) dir: &'a WorkDir,
}

/// A running child and the file that its output goes to.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Held so that the directory outlives its user.
    _dir: WorkDir,
    status: Option<ExitStatus>,
    /// The length of the log when this process was started: what stands before it is an earlier one's.
    log_start: u64,
}

impl Process {
    /// Starts any command on loopback, in a directory of its own.
    #[track_caller]
    pub fn of(name: &str, command: Command) -> Self {
        Self::within(name, command, &WorkDir::new(name))
    }

    /// The same in a directory that is there already.
    #[track_caller]
    pub fn within(name: &str, command: Command, dir: &WorkDir) -> Self {
        let started = Self::start(Start { name, command, host: &Host::local(), dir });
        started.unwrap_or_else(|e| panic!("cannot start {name}: {e}"))
    }

    pub(crate) fn start(start: Start<'_>) -> io::Result<Self> {
        machine::watch();
        let Start { name, mut command, host, dir } = start;
        let log = dir.join(&format!("{name}.log"));
        let out = OpenOptions::new().create(true).append(true).open(&log)?;
        let log_start = out.metadata()?.len();
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).current_dir(dir.path());
        let child = spawn(command, host)?;
        remember(child.id());
        Ok(Self { name: name.to_owned(), child, log, _dir: dir.clone(), status: None, log_start })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The name it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file with its output.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// All that it has printed since this start.
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let from = usize::try_from(self.log_start).unwrap_or(0).min(bytes.len());
        String::from_utf8_lossy(&bytes[from..]).into_owned()
    }

    /// Waits for a line that contains this text and returns it.
    #[track_caller]
    pub fn wait_for_line(&mut self, text: &str, limit: Duration) -> String {
        let what = format!("{}: a line with `{text}`", self.name);
        wait::until(&what, limit, || {
            let log = self.log();
            log.lines().find(|line| line.contains(text)).map(str::to_owned).ok_or_else(|| tail(&log, 12))
        })
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.poll().is_none()
    }

    /// How it ended, if it did.
    pub fn poll(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().unwrap_or(None);
            if self.status.is_some() {
                forget(self.child.id());
            }
        }
        self.status
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait_for_end(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("{}: the end of process {}", self.name, self.child.id());
        wait::until(&what, limit, || self.poll().ok_or("still running"))
    }

    /// Waits until the kernel has stopped it (as `ALBIREO_TEST_FAULT=stop:` does).
    #[track_caller]
    pub fn wait_until_stopped(&self, limit: Duration) {
        let what = format!("{}: process {} stopped", self.name, self.child.id());
        wait::until(&what, limit, || match self.state() {
            Some('T') => Ok(()),
            state => Err(format!("state {state:?}")),
        });
    }

    /// The kernel's letter for its state: `T` is stopped, `Z` dead and not yet collected.
    pub fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    /// Sends a signal to its process group; nothing happens if it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.poll().is_none() {
            signal_group(self.child.id(), signal.number());
        }
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        self.signal(Signal::Kill);
        if self.status.is_none() {
            self.status = self.child.wait().ok();
            forget(self.child.id());
        }
    }

    /// SIGTERM, and waits for the end: `None` if it had to be killed after `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.signal(Signal::Term);
        self.signal(Signal::Cont);
        let ended = wait::within(limit, || self.poll().ok_or(()));
        if ended.is_err() {
            self.kill();
        }
        ended.ok()
    }

    /// SIGSTOP: it keeps its connections and answers nothing. Returns once the kernel has stopped it.
    pub fn pause(&mut self) {
        self.signal(Signal::Stop);
        if self.status.is_none() {
            self.wait_until_stopped(Duration::from_secs(5));
        }
    }

    /// SIGCONT.
    pub fn resume(&mut self) {
        self.signal(Signal::Cont);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- the last lines of {} ({:?})\n{}", self.name, self.status, tail(&self.log(), 40));
        }
    }
}

/// The exit code, or 128 and the signal, as a shell shows it.
pub(crate) fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Ends every child of this library and removes every directory; for an exit that runs no destructors.
pub fn stop_everything() {
    let running: Vec<u32> = children().iter().copied().collect();
    for id in running {
        signal_group(id, libc::SIGKILL);
    }
    crate::netns::remove_own();
    // The killed need a moment to let go of their files.
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end && children().iter().any(|id| alive(*id)) {
        thread::sleep(Duration::from_millis(5));
    }
    workdir::remove_own();
}

fn alive(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

static CHILDREN: Mutex<Vec<u32>> = Mutex::new(Vec::new());

fn children() -> std::sync::MutexGuard<'static, Vec<u32>> {
    CHILDREN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn remember(id: u32) {
    children().push(id);
}

fn forget(id: u32) {
    children().retain(|known| *known != id);
}

#[allow(unsafe_code)]
fn signal_group(id: u32, signal: libc::c_int) {
    let Ok(group) = libc::pid_t::try_from(id) else { return };
    // SAFETY: kill takes two integers. The group is that of a child which has not been collected, so its number
    // cannot have been given to anybody else.
    unsafe { libc::kill(-group, signal) };
}

type Job = (Command, Option<i32>, mpsc::Sender<io::Result<Child>>);

/// Starts a child from the one thread that starts all of them. The kernel ends a child with the *thread* that started
/// it, and that thread lives as long as the process, unlike the threads of tests.
fn spawn(command: Command, host: &Host) -> io::Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for (command, namespace, answer) in queue {
                let _ = answer.send(spawn_here(command, namespace));
            }
        });
        jobs
    });
    let (answer, started) = mpsc::channel();
    let gone = || io::Error::other("the thread that starts children has ended");
    spawner.send((command, host.descriptor(), answer)).map_err(|_| gone())?;
    started.recv().map_err(|_| gone())?
}

#[allow(unsafe_code)]
fn spawn_here(mut command: Command, namespace: Option<i32>) -> io::Result<Child> {
    let parent = std::process::id();
    command.process_group(0);
    // SAFETY: between fork and exec only async-signal-safe calls are made (prctl, getppid, setns): no allocation,
    // no lock; an error is built from a number.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the line above.
            if u32::try_from(libc::getppid()) != Ok(parent) {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            match namespace {
                Some(descriptor) => crate::host::enter(descriptor),
                None => Ok(()),
            }
        });
    }
    command.spawn()
}

/// Runs a command to its end and gives its exit code and all that it printed; for `zoo-setup`, verbs, `ip` and `nft`.
pub(crate) fn run_to_end(
    name: &str,
    command: Command,
    host: &Host,
    limit: Duration,
) -> io::Result<(i32, String)> {
    let dir = WorkDir::new(name);
    let mut child = Process::start(Start { name, command, host, dir: &dir })?;
    let ended = wait::within(limit, || child.poll().ok_or(()));
    let printed = child.log();
    match ended {
        Ok(status) => Ok((code(status), printed)),
        Err(()) => {
            Err(io::Error::other(format!("{name} did not end within {limit:?}; it printed: {printed}")))
        }
    }
}

/// Opens a file for reading, with its path in the error.
pub(crate) fn open(path: &str) -> io::Result<File> {
    File::open(path).map_err(|e| io::Error::new(e.kind(), format!("{path}: {e}")))
}
