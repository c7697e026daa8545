//! What must hold whatever stands in a configuration file.

use std::time::Duration;

use super::Config;

/// The text of a file.
pub(crate) fn check(data: &[u8]) {
    let file = |path: &str| match path.len() % 3 {
        0 => Err("gone".to_owned()),
        1 => Ok(b"user:password\n".to_vec()),
        _ => Ok(vec![0xff]),
    };
    let config = match Config::parse(data, "f.ini", [], &file) {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems.iter().map(ToString::to_string) {
                assert!(!problem.contains(char::is_control), "{problem:?}");
            }
            return;
        }
    };
    let (limits, millis) = (config.limits(), Duration::from_millis);
    assert!(limits.down_after >= 2 * limits.ping_interval && limits.ping_interval >= millis(10));
    assert!(limits.down_after <= millis(600_000) && config.detector.connect_timeout >= millis(10));
    assert!((millis(10)..=millis(60_000)).contains(&config.binary_star.heartbeat));
    assert!((1..=64).contains(&config.name().len()) && !config.name().contains(['/', ' ']));
    assert!(!config.zookeeper.path.is_empty() || config.zookeeper.discover.is_some());
    assert!((1..=100).contains(&config.failover.mass_failure_percent));
    assert!(config.dns.as_ref().is_none_or(|dns| dns.ttl <= crate::dns::TTL_MAX));
    assert!(!config.observes() || config.binary_star.peer.is_none());
    says_no_secret(data, &config);
}

/// What is printed of a configuration holds none of the secrets that stand in it.
fn says_no_secret(data: &[u8], config: &Config) {
    let printed = format!("{config:?} {:?}", config.warnings);
    let shared = config.redis.shared.password.iter();
    let members = config.redis.members.values().filter_map(|member| member.password.as_ref());
    let login = config.sentinel.iter().filter_map(|sentinel| Some(&sentinel.login.as_ref()?.password));
    let auth = config.zookeeper.auth.iter().map(|(_, password)| password);
    let token = config.admin.token.iter().map(AsRef::as_ref);
    for secret in shared.chain(members).chain(login).chain(auth).chain(token) {
        let times = data.windows(secret.expose().len()).filter(|bytes| *bytes == secret.expose()).count();
        // What also stands elsewhere, or is the name of something, says nothing.
        if times == 1 && secret.expose().len() >= 8 {
            assert!(!printed.contains(secret.text()) || NAMES.contains(secret.text()), "{printed}");
        }
    }
}

/// Words of what is printed, which a file may hold, too.
const NAMES: &str = "zookeeper session_timeout state_root discover binary_star heartbeat detector ping_interval \
                     down_after connect_timeout refused_grace failover Failover Detector min_in_sync attach_timeout \
                     max_lag_bytes priority restart_guard switchover_budget mass_failure_percent cold_start cold_wait \
                     min_interval RedisSettings Credentials username password announce HookSettings on_failover \
                     on_role_change LogSettings LogLevel LogFormat warnings ZookeeperSettings BinaryStar ZnodePath \
                     127.0.0.1 Sentinel albireo.internal Settings ZoneName sections problems";

#[cfg(test)]
mod tests {
    #[test]
    fn kept_inputs() {
        world::fuzz::replay("monitor_config", super::check);
    }
}
