//! What must hold whatever stands in a configuration file.

use std::time::Duration;

use super::{Config, RESERVED};

/// The text of a file.
pub(crate) fn check(data: &[u8]) {
    let file = |path: &str| match path.len() % 3 {
        0 => Err("gone".to_owned()),
        1 => Ok(b"user:password\n".to_vec()),
        _ => Ok(vec![0xff]),
    };
    match Config::parse(data, "f.ini", [], &file) {
        Ok(config) => {
            let api = &config.api;
            assert!((Duration::from_millis(10)..=Duration::from_millis(600_000)).contains(&api.deadline));
            assert!((1..=512 << 20).contains(&api.max_value_bytes) && api.max_in_flight > 0);
            assert!(api.key_prefix.len() <= 64 && !api.key_prefix.starts_with(RESERVED));
            assert!(!api.key_prefix.contains(char::is_control));
            assert_eq!(api.service, api.service_path.name());
            let known = config.zookeeper.path.contains(&api.service_path);
            let parent = config.zookeeper.discover.as_ref().map(ToString::to_string);
            assert!(known || api.service_path.ancestors().last() == parent.as_deref());
        }
        Err(problems) => {
            for problem in problems.iter().map(ToString::to_string) {
                assert!(!problem.contains(char::is_control), "{problem:?}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn kept_inputs() {
        world::fuzz::replay("api_config", super::check);
    }
}
