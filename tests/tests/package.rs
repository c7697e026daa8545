//! The Debian package: it holds what its services start, installs on a Debian system that holds nothing else, its programs
//! pass the kill test there, and systemd hears from them.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use world::group::Group;
use world::netns::Hosts;
use world::secure::Secure;
use world::{Process, WorkDir, programs, skip, wait, workdir};

const LIMIT: Duration = Duration::from_secs(30);

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{command:?}: {}: {said}", output.status);
    said
}

fn conf(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf").join(name)
}

#[test]
fn the_package_holds_what_its_services_start() {
    if Command::new("dpkg-deb").arg("--version").output().is_err() {
        return skip::skip("the_package_holds_what_its_services_start", "dpkg-deb is not installed");
    }
    let dir = WorkDir::new("package");
    let package = built(&dir);
    let root = dir.join("root");
    run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&root));
    let control = run(Command::new("dpkg-deb").arg("-I").arg(&package));
    assert!(control.contains("libstdc++6") && control.contains("postinst"), "{control}");

    let inside = |path: &str| root.join(path.trim_start_matches('/'));
    let mut started = 0;
    for unit in std::fs::read_dir(inside("/usr/lib/systemd/system")).expect("units") {
        let text = std::fs::read_to_string(unit.expect("a unit").path()).expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command line");
        for path in line.split_whitespace().filter(|word| word.starts_with('/')) {
            assert!(inside(path).exists(), "{path} of `{line}` is not in the package");
            started += 1;
        }
    }
    assert_eq!(started, 6, "three services, each with a program and its file");
    for program in ["monitor", "api", "zoo-setup"] {
        let said = run(Command::new(inside(&format!("/usr/bin/albireo-{program}"))).arg("--version"));
        assert!(said.contains(env!("CARGO_PKG_VERSION")), "{said}");
    }
    // Its scripts are right for the shell, and its files for the programs.
    for script in ["postinst", "prerm", "postrm"] {
        run(Command::new("sh").arg("-n").arg(conf("deb").join(script)));
    }
    kill_test_with(&inside("/usr/lib/albireo"));
}

/// By this very program in another process.
fn kill_test_with(programs: &Path) {
    let this = std::env::current_exe().expect("this test");
    let arguments = ["--ignored", "--exact", "kill_test_of_the_package"];
    let said = run(Command::new(this).args(arguments).env("ALBIREO_PROGRAMS", programs));
    assert!(said.contains("1 passed"), "{said}");
}

/// The package with the programs that the other tests use.
fn built(dir: &WorkDir) -> String {
    let programs = programs::path_of("monitor").parent().map(Path::to_path_buf).expect("a folder");
    let said = run(Command::new(conf("deb/build")).arg(dir.path()).arg(&programs));
    said.lines().last().expect("the name of the package").to_owned()
}

/// With everything on that protects, in short (`security.rs` has the whole).
#[test]
#[ignore = "run by the other tests, with the programs of the package"]
fn kill_test_of_the_package() {
    assert!(std::env::var_os("ALBIREO_PROGRAMS").is_some(), "which programs?");
    let secure = Secure::new();
    let mut group = secure.group_with_all(2).start();
    let before = group.settled();
    let load = group.load();
    load.wait_for_writes(100, LIMIT);
    let old = group.primary();
    group.redis[old].kill();
    load.wait_for_epoch_above(before.epoch, LIMIT);
    load.wait_for_writes(100, LIMIT);
    load.stop().assert_clean();
}

/// A Debian system in a folder, with nothing but what every one has.
struct Clean {
    dir: WorkDir,
    root: PathBuf,
}

impl Clean {
    /// From where this machine gets its own packages; or why not.
    fn new() -> Result<Self, String> {
        Hosts::available()?;
        if Command::new("debootstrap").arg("--version").output().is_err() {
            return Err("debootstrap is not installed".to_owned());
        }
        let release = std::fs::read_to_string("/etc/os-release").map_err(|e| e.to_string())?;
        let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
        let codename = codename.ok_or("/etc/os-release has no VERSION_CODENAME")?;
        let wanted = ["--format", "$(CODENAME) $(COMPONENT) $(SITE)", "Created-By: Packages"];
        let sources = Command::new("apt-get").arg("indextargets").args(wanted).output();
        let sources = String::from_utf8_lossy(&sources.map_err(|e| e.to_string())?.stdout).into_owned();
        let site_of =
            |suite: &str| sources.lines().find_map(|line| line.strip_prefix(&format!("{suite} main ")));
        let site = site_of(codename).ok_or_else(|| format!("apt has no source of `{codename} main`"))?;
        let dir = WorkDir::on_disk("clean"); // with devices, which memory may not be allowed to have
        let root = dir.join("root");
        // What it mounts vanishes with it, also when it is killed.
        let mut make = Command::new("timeout");
        make.args(["-k", "5", "480", "unshare", "--mount", "debootstrap", "--variant=minbase"]);
        let updates = format!("{codename}-updates");
        if site_of(&updates).is_some() {
            make.arg(format!("--extra-suites={updates}")); // this machine may have libraries from there
        }
        let made = make.arg(codename).arg(&root).arg(site).stdin(Stdio::null()).output();
        let made = made.map_err(|e| e.to_string())?;
        if !made.status.success() {
            let said = String::from_utf8_lossy(&made.stdout).into_owned();
            let end = said.lines().last().unwrap_or_default();
            return Err(format!("could not fetch a clean system ({}): {end}", made.status));
        }
        Ok(Self { dir, root })
    }

    /// Runs this there, with nothing of this machine but the folders of the tests and a `/proc`, in mounts that nobody else
    /// sees. What is started keeps its process id.
    fn script(&self, user: &str, command: &str) -> String {
        let root = self.root.display();
        let mounted = |folder: &Path| {
            let folder = folder.display();
            format!("mkdir -p {root}{folder} && mount --bind {folder} {root}{folder}")
        };
        let (own, tests) = (mounted(self.dir.path()), mounted(&workdir::root()));
        format!(
            "exec unshare --mount sh -c '{own} && {tests} && mount -t proc proc {root}/proc && \
             exec chroot --userspec={user} {root} {command} \"$@\"' sh \"$@\"\n"
        )
    }

    fn run(&self, command: &str) -> String {
        run(Command::new("sh").arg("-c").arg(self.script("root", command)))
    }

    /// A program that does the same.
    fn wrapper(&self, at: &Path, command: &str) {
        std::fs::write(at, format!("#!/bin/sh\n{}", self.script("root", command))).expect("a file");
        std::fs::set_permissions(at, std::fs::Permissions::from_mode(0o755)).expect("permissions");
    }

    /// What systemd would start for this unit.
    fn command_of(&self, unit: &str) -> String {
        let file = self.root.join("usr/lib/systemd/system").join(unit);
        let text = std::fs::read_to_string(file).expect("a unit");
        text.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command line").to_owned()
    }
}

#[test]
fn it_installs_on_a_clean_system() {
    let clean = match Clean::new() {
        Ok(clean) => clean,
        Err(why) => return skip::skip("it_installs_on_a_clean_system", &why),
    };
    let package = built(&clean.dir);
    clean.run(&format!("dpkg -i {package}"));
    assert!(clean.run("getent passwd albireo").contains("/usr/sbin/nologin"));
    for file in ["/etc/albireo/monitor.ini", "/etc/albireo/api.ini"] {
        assert_eq!(clean.run(&format!("stat -c %a:%U:%G {file}")).trim(), "640:root:albireo");
    }

    // As their user, on a host of their own, so that the ports of the shipped files are free. Nobody else is there.
    let hosts = Hosts::new(&["clean"]);
    let services = [
        ("albireo-monitor.service", "starts; admin on 127.0.0.1:"),
        ("albireo-api.service", "listens on 127.0.0.1:"),
    ];
    for (unit, line) in services {
        let mut command = Command::new("sh");
        command.arg("-c").arg(clean.script("albireo:albireo", &clean.command_of(unit)));
        let mut process = hosts.host("clean").run(|| Process::of(unit, command));
        process.wait_for_line(line, LIMIT);
        let ended = process.terminate(LIMIT).expect("an end");
        assert!(ended.success(), "{unit}: {ended}: {}", process.log());
    }

    let programs = clean.dir.join("programs");
    std::fs::create_dir(&programs).expect("a folder");
    for name in ["monitor", "api", "zoo-setup"] {
        clean.wrapper(&programs.join(name), &format!("/usr/bin/albireo-{name}"));
    }
    kill_test_with(&programs);

    clean.run("dpkg --purge albireo");
    assert!(!clean.root.join("etc/albireo").exists(), "something is left");
}

/// What the programs tell their supervisor until then.
#[track_caller]
fn wait_to_hear(socket: &UnixDatagram, wanted: &str) {
    let (end, mut heard, mut buffer) = (Instant::now() + LIMIT, String::new(), [0; 4096]);
    while Instant::now() < end {
        if let Ok(length) = socket.recv(&mut buffer) {
            heard.push_str(&String::from_utf8_lossy(&buffer[..length]));
            if heard.lines().any(|line| line == wanted) {
                return;
            }
        }
    }
    panic!("systemd does not hear `{wanted}`, but: {heard}");
}

#[test]
fn systemd_hears_that_they_have_begun_and_that_they_turn() {
    let dir = WorkDir::new("notify");
    let path = dir.join("socket");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a limit");
    let text = path.display().to_string();
    let mut group = Group::of(1).monitors(1).apis(0).monitor_env(0, "NOTIFY_SOCKET", &text).start();
    wait_to_hear(&socket, "READY=1");
    wait_to_hear(&socket, "STATUS=leads");
    wait_to_hear(&socket, "WATCHDOG=1");
    // One that stands still is silent, and systemd would restart it.
    group.monitors[0].process().pause();
    wait::until("what was on its way is over", LIMIT, || {
        let left = socket.recv(&mut [0; 4096]).is_ok();
        wait::holds(!left, || "it goes on".to_owned())
    });
    assert!(socket.recv(&mut [0; 4096]).is_err(), "a process that stands still says nothing");
    group.monitors[0].process().resume();
    wait_to_hear(&socket, "WATCHDOG=1");
    assert!(group.monitors[0].process().terminate(LIMIT).is_some_and(|status| status.success()));
    wait_to_hear(&socket, "STOPPING=1");
}

#[test]
fn systemd_hears_from_the_api() {
    let dir = WorkDir::new("notify");
    let path = dir.join("socket");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a limit");
    let group = Group::of(0).monitors(0).apis(0).servers();
    let file = dir.join("api.ini");
    let port = group.redis[0].host().free_port();
    let text = format!(
        "[zookeeper]\nhosts = {}\npath = {}\n[api]\nlisten = 127.0.0.1:{port}\n",
        group.zookeeper.hosts(),
        group.path()
    );
    std::fs::write(&file, text).expect("a file");
    let mut command = Command::new(programs::path_of("api"));
    command.arg(&file).env("NOTIFY_SOCKET", &path);
    let mut api = world::Process::of("api", command);
    wait_to_hear(&socket, "READY=1");
    wait_to_hear(&socket, "WATCHDOG=1");
    assert!(api.terminate(LIMIT).is_some_and(|status| status.success()));
    wait_to_hear(&socket, "STOPPING=1");
}
