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
    if pid.parse::<u32>().is_err() {
        return false;
    }
    match fs::metadata(format!("/proc/{pid}")) {
        Ok(_) => start_of(pid).is_some_and(|now| now != start),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
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
