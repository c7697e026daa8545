//! SIGHUP: what of a configuration can be changed while the monitor runs. Everything else stays as it is, and each changed key
//! is told: adopted, or in need of a restart.

use std::sync::Arc;

use failover::Event;
use settings::{Change, Problems, ZookeeperSettings};
use topology::ZnodePath;
use tracing::{error, info, warn};

use super::Driver;
use crate::backend::Backend;
use crate::config::Config;
use crate::log;

/// Sections and keys that are adopted; an empty key stands for the whole section.
const ADOPTED: [(&str, &str); 5] =
    [("detector", ""), ("failover", ""), ("hooks", ""), ("log", "level"), ("zookeeper", "path")];

impl Driver {
    /// The file was read again.
    pub(super) fn reload(&mut self, read: Result<Box<Config>, Problems>) {
        let newer = match read {
            Ok(newer) => newer,
            Err(problems) => {
                problems.iter().for_each(|problem| error!("SIGHUP: {problem}"));
                return error!("SIGHUP: nothing was reloaded, for the file is not right");
            }
        };
        let changes = self.around.config.source.changes(&newer.source);
        if changes.is_empty() {
            return info!("SIGHUP: nothing has changed");
        }
        let (adopted, others): (Vec<Change>, Vec<Change>) = changes.into_iter().partition(is_adopted);
        adopted.iter().for_each(|change| info!("reloaded {change}"));
        others.iter().for_each(|change| warn!("not reloaded {change} (restart the monitor)"));
        let mut config = (*self.around.config).clone();
        adopted.iter().for_each(|change| config.source.adopt(&newer.source, change));
        config.zookeeper.path = newer.zookeeper.path;
        config.detector = newer.detector;
        config.failover = newer.failover;
        config.hooks = newer.hooks;
        config.log.level = newer.log.level;
        newer.warnings.iter().for_each(|warning| warn!("{warning}"));
        self.adopt(config);
    }

    fn adopt(&mut self, config: Config) {
        log::set_level(config.log.level);
        self.hooks.replace(config.hooks.clone());
        let limits = config.limits();
        let new = config.detector;
        if self.around.detector.send_if_modified(|detector| std::mem::replace(detector, new) != new) {
            // Shorter bounds must not find silence where nobody was asked.
            self.services.each().flat_map(|service| service.backends.values()).for_each(Backend::look);
        }
        self.around.config = Arc::new(config);
        self.all_groups(&Event::Limits(limits));
        self.watch_configured();
    }

    /// Watches what stands in `[zookeeper] path` now, and what does not stand there any more only if it was discovered.
    fn watch_configured(&mut self) {
        let ZookeeperSettings { path: wanted, discover, .. } = self.around.config.zookeeper.clone();
        let is_discovered = |path: &ZnodePath| {
            discover.as_ref().is_some_and(|parent| parent.child(path.name()).as_ref() == Ok(path))
        };
        let mut left = Vec::new();
        for service in self.services.each() {
            service.discovered = !wanted.contains(&service.path);
            if service.discovered && !is_discovered(&service.path) {
                left.push(service.id.name.to_string());
            }
        }
        for name in left {
            info!(service = name, "not watched any more");
            self.remove_service(&name);
        }
        wanted.into_iter().for_each(|path| self.add_service(path, false));
        // A name may have become free. What was never read is not known to be empty.
        if let Some(found) = self.found.clone() {
            self.discovered(&found);
        }
    }
}

fn is_adopted(change: &Change) -> bool {
    ADOPTED.iter().any(|(section, key)| change.section == *section && (key.is_empty() || change.key == *key))
}
