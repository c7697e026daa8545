//! From the command line, and the monitor's file if one is named, to a [`Plan`].

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use settings::{Ensemble, Ini, Problem, Problems, Reader, Schema, ZOOKEEPER, ZookeeperSettings, misplaced};
use tls::Tls;
use topology::{Endpoint, Topology, ZnodePath};

/// The one section of a monitor's or API's file that matters here.
const SCHEMA: Schema = Schema::lenient(&[ZOOKEEPER]);

const PATH: &str = "/the_red/storage/posts";

/// Seeds the znodes of a Redis group: which server is primary and which are secondary
#[derive(Debug, Parser)]
#[command(name = "zoo-setup", version, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// ZooKeeper: host:port,... with an optional /chroot [default: 127.0.0.1:2181]
    #[arg(long, value_name = "HOST:PORT,...")]
    hosts: Option<Ensemble>,
    /// The znode of the announcement [default: /the_red/storage/posts]
    #[arg(long, value_name = "ZNODE")]
    path: Option<ZnodePath>,
    /// The server that takes writes
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:6379")]
    primary: Endpoint,
    /// The other servers; may be repeated, take several, or be empty [default: 127.0.0.1:6380]
    #[arg(long, value_name = "HOST:PORT", num_args = 0.., value_delimiter = ',')]
    secondary: Option<Vec<String>>,
    /// Below it lives what the monitors agree on [default: /albireo]
    #[arg(long, value_name = "ZNODE")]
    state_root: Option<ZnodePath>,
    /// Replaces other content instead of refusing
    #[arg(long)]
    force: bool,
    /// Takes hosts, path, state root, login and TLS from a monitor's file; with several paths in it, --path says which
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

const EXIT_CODES: &str = "Exit codes: 0 done or nothing to do, 1 failed (ZooKeeper did not answer within 5 s), \
    2 usage or configuration, 3 refused because other content is there";

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) hosts: String,
    pub(crate) path: ZnodePath,
    pub(crate) state_root: ZnodePath,
    pub(crate) topology: Topology,
    pub(crate) force: bool,
    pub(crate) auth: Option<(String, String)>,
    pub(crate) tls: Option<Tls>,
}

impl Arguments {
    /// What the command line and the file say together; the command line wins.
    pub(crate) fn plan(self) -> Result<Plan, String> {
        let file = match &self.config {
            Some(path) => Some(load(path).map_err(|problems| problems.to_string())?),
            None => None,
        };
        let path = match (self.path, &file) {
            (Some(path), _) => path,
            (None, None) => known(PATH)?,
            (None, Some(file)) => only_path(&file.path)?,
        };
        let state_root = match (self.state_root, &file) {
            (Some(root), _) => root,
            (None, Some(file)) => file.state_root.clone(),
            (None, None) => known("/albireo")?,
        };
        if let Some(why) = misplaced(&path, &state_root) {
            return Err(format!("zoo-setup: {why}"));
        }
        let hosts = match (self.hosts, &file) {
            (Some(hosts), _) => hosts.to_string(),
            (None, Some(file)) => file.hosts.clone(),
            (None, None) => "127.0.0.1:2181".to_owned(),
        };
        let tls = file.as_ref().and_then(|file| file.tls.clone());
        let auth = file.and_then(|file| file.auth).map(|(user, password)| (user, password.text().to_owned()));
        let topology = topology(self.primary, self.secondary)?;
        Ok(Plan { hosts, path, state_root, topology, force: self.force, auth, tls })
    }
}

fn known(path: &str) -> Result<ZnodePath, String> {
    path.parse().map_err(|e| format!("zoo-setup: {e}"))
}

fn only_path(paths: &[ZnodePath]) -> Result<ZnodePath, String> {
    match paths {
        [only] => Ok(only.clone()),
        [] => Err("zoo-setup: the file names no path: say which with --path".to_owned()),
        several => {
            let names: Vec<&str> = several.iter().map(ZnodePath::as_str).collect();
            Err(format!(
                "zoo-setup: the file names several paths: say which with --path: {}",
                names.join(" ")
            ))
        }
    }
}

fn topology(primary: Endpoint, secondary: Option<Vec<String>>) -> Result<Topology, String> {
    let secondary = secondary.unwrap_or_else(|| vec!["127.0.0.1:6380".to_owned()]);
    let named = secondary.iter().map(|address| address.trim()).filter(|address| !address.is_empty());
    let replicas: Result<Vec<Endpoint>, _> = named.map(str::parse).collect();
    let replicas = replicas.map_err(|e| format!("zoo-setup: --secondary: {e}"))?;
    Topology::new(primary, replicas).map_err(|e| format!("zoo-setup: {e}"))
}

/// Reads `[zookeeper]` and leaves all else to its owner.
fn load(path: &Path) -> Result<ZookeeperSettings, Problems> {
    let name = path.display().to_string();
    let text = fs::read(path).map_err(|e| Problem::file(&name, format!("cannot be read: {e}")))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let read_file = |file: &str| fs::read(folder.join(file)).map_err(|e| e.to_string());
    let environment = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    let ini = Ini::parse(&text, &name, environment, &SCHEMA);
    let mut reader = Reader::new(&ini, &read_file);
    let settings = ZookeeperSettings::read(&mut reader);
    reader.finish()?;
    // Without a mistake there is a value.
    settings.ok_or_else(|| Problem::file(&name, "[zookeeper] cannot be read").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(line: &str) -> Result<Plan, String> {
        let words = std::iter::once("zoo-setup").chain(line.split(' ').filter(|word| !word.is_empty()));
        Arguments::try_parse_from(words.map(|word| word.replace("''", ""))).map_err(|e| e.to_string())?.plan()
    }

    fn json(line: &str) -> String {
        plan(line).unwrap().topology.to_json()
    }

    #[test]
    fn the_defaults() {
        let plan = plan("").unwrap();
        assert_eq!((plan.hosts.as_str(), plan.path.as_str()), ("127.0.0.1:2181", PATH));
        assert_eq!((plan.state_root.as_str(), plan.force, plan.auth), ("/albireo", false, None));
        assert_eq!(
            plan.topology.to_json(),
            r#"{"primary": "127.0.0.1:6379", "secondary": ["127.0.0.1:6380"]}"#
        );
    }

    #[test]
    fn secondaries_repeated_several_or_none() {
        let two = r#"{"primary": "127.0.0.1:6379", "secondary": ["b:2", "a:1"]}"#;
        for line in ["--secondary b:2 a:1", "--secondary b:2 --secondary a:1", "--secondary b:2,a:1"] {
            assert_eq!(json(line), two, "{line}");
        }
        let none = r#"{"primary": "p:1", "secondary": []}"#;
        for line in ["--primary p:1 --secondary", "--secondary --primary p:1", "--primary p:1 --secondary ''"]
        {
            assert_eq!(json(line), none, "{line}");
        }
    }

    #[test]
    fn what_is_refused() {
        for line in [
            "--hosts a:0",
            "--path posts",
            "--path /albireo/x",
            "--path /x --state-root /x",
            "--primary 127.0.0.1",
            "--secondary b",
            "--secondary 127.0.0.1:6379",
            "--secondary a:1 a:1",
            "--config /nowhere/m.ini",
            "--frobnicate",
            "posts",
        ] {
            assert!(plan(line).is_err(), "{line}");
        }
    }
}
