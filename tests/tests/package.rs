//! The Debian package: it holds what its services start, its programs pass the kill test, and systemd hears from them.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use world::group::Group;
use world::{WorkDir, programs, skip, wait};

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
    let programs = programs::path_of("monitor").parent().map(Path::to_path_buf).expect("a folder");
    let built = run(Command::new(conf("deb/build")).arg(dir.path()).arg(&programs));
    let package = built.lines().last().expect("the name of the package").to_owned();
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

    // The kill test by this very program in another process, with the programs of the package.
    let this = std::env::current_exe().expect("this test");
    let mut again = Command::new(this);
    again.args(["--ignored", "--exact", "kill_test_of_the_package"]);
    run(again.env("ALBIREO_PROGRAMS", inside("/usr/lib/albireo")));
}

/// As in `kill.rs`, in short.
#[test]
#[ignore = "run by the test above, with the programs of the package"]
fn kill_test_of_the_package() {
    assert!(std::env::var_os("ALBIREO_PROGRAMS").is_some(), "which programs?");
    let mut group = Group::of(2).start();
    let before = group.settled();
    let load = group.load();
    load.wait_for_writes(100, LIMIT);
    let old = group.primary();
    group.redis[old].kill();
    load.wait_for_epoch_above(before.epoch, LIMIT);
    load.wait_for_writes(100, LIMIT);
    load.stop().assert_clean();
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
