//! Which process on which machine this is, so that a successor on the same machine can tell for certain that it is gone and
//! need not wait for the end of its ZooKeeper session.

use std::fs;

/// This process as `BOOT/NAMESPACE/PID/START`; none where the system does not say.
pub(crate) fn own() -> Option<String> {
    let start = start_of("self")?;
    Some(format!("{}/{}/{start}", machine()?, std::process::id()))
}

/// Whether that process is certainly gone: it ran on this machine since its last boot, among the processes that this one can
/// see, and its number is free, a zombie's, or another one's by now.
pub(crate) fn is_gone(process: &str) -> bool {
    let Some(machine) = machine() else { return false };
    let Some(rest) = process.strip_prefix(&machine).and_then(|rest| rest.strip_prefix('/')) else {
        return false;
    };
    let Some((pid, start)) = rest.split_once('/') else { return false };
    let Ok(number) = pid.parse::<libc::pid_t>() else { return false };
    match start_of(pid) {
        Some(now) => now != start,
        None => is_free(number),
    }
}

/// Whether no process has this number. Not seen below /proc is not enough: others' processes may be hidden there.
#[allow(unsafe_code)]
fn is_free(pid: libc::pid_t) -> bool {
    // SAFETY: a system call on numbers only; signal 0 is sent to nobody.
    let sent = unsafe { libc::kill(pid, 0) };
    pid > 0 && sent == -1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH)
}

/// The running kernel and the space of process numbers.
fn machine() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{}/{}", boot.trim(), namespace.to_str()?))
}

/// When a process started, in ticks since the boot; `ended` for a zombie.
fn start_of(pid: &str) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may contain anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    match *fields.first()? {
        "Z" | "X" => Some("ended".to_owned()),
        _ => fields.get(19).map(|start| (*start).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn this_process_is_not_gone_and_what_is_not_known_is_not_either() {
        let own = own().unwrap();
        assert!(!is_gone(&own));
        let (elsewhere, _) = own.split_once('/').unwrap();
        for process in ["", "x", &own.replace(elsewhere, "another-boot"), &own.replace("pid:", "pad:")] {
            assert!(!is_gone(process), "{process}");
        }
        for (pid, free) in [(1, false), (0, false), (-1, false), (libc::pid_t::MAX, true)] {
            assert_eq!(is_free(pid), free, "{pid}");
        }
        let (front, _) = own.rsplit_once('/').unwrap();
        assert!(is_gone(&format!("{front}/1")), "its number is another process's now");
    }

    #[test]
    fn a_child_that_ended_is_gone_also_while_nobody_has_reaped_it() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let machine = machine().unwrap();
        let process = format!("{machine}/{}/{}", child.id(), start_of(&child.id().to_string()).unwrap());
        assert!(!is_gone(&process));
        child.kill().unwrap();
        let pid = child.id().to_string();
        while start_of(&pid).as_deref() != Some("ended") {
            std::thread::yield_now();
        }
        assert!(is_gone(&process), "a zombie");
        child.wait().unwrap();
        assert!(is_gone(&process));
    }
}
