//! The ACL rules of README.md, "Passwords and rights", read from there, so that what is written is what is tested.

use std::path::Path;

/// A user of the Redis servers, as README.md has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: &'static str,
    /// What stands there in place of its password.
    placeholder: &'static str,
}

/// The monitors' user.
pub const MONITOR: User = User { name: "albireo-monitor", placeholder: ">MONITOR-PASSWORD" };
/// The APIs' user.
pub const API: User = User { name: "albireo-api", placeholder: ">API-PASSWORD" };
/// The user of replicas that have no credential from the monitors.
pub const REPLICA: User = User { name: "albireo-replica", placeholder: ">REPLICA-PASSWORD" };

impl User {
    /// Its line for `redis.conf`, with this password.
    #[track_caller]
    pub fn rule(&self, password: &str) -> String {
        let section = section();
        let begin = format!("user {} on {} ", self.name, self.placeholder);
        let mut lines = section.lines().filter(|line| line.starts_with(&begin));
        let line = lines.next().unwrap_or_else(|| panic!("README.md has no line `{begin}...`"));
        assert_eq!(lines.next(), None, "README.md has two lines for {}", self.name);
        line.replace(self.placeholder, &format!(">{password}"))
    }
}

#[track_caller]
fn section() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let section = text.split_once("**Passwords and rights.**").and_then(|(_, rest)| rest.split_once("\n**"));
    section.unwrap_or_else(|| panic!("README.md has no section on passwords and rights")).0.to_owned()
}
