//! What an operator already runs, told of what happened: commands and a webhook, with the facts in environment variables
//! and as JSON.
//!
//! ```text
//! driver --Fact--> queue of the service --one after the other--> sh -c COMMAND, POST webhook
//! ```
//!
//! The driver only puts a fact into the queue, so no hook ever delays a failover. Only the monitor that leads tells; one
//! fact may be told twice when the lead changes hands meanwhile. What fails is tried again twice, and then given up.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::process::Command;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::webhook::Webhook;

/// So many facts of one service may wait; later ones are dropped, with a warning.
const WAITING: usize = 256;
/// The rests between the attempts; one attempt more than rests.
const RESTS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// `[hooks]`.
#[derive(Debug, Clone, Default)]
pub(crate) struct HookSettings {
    pub(crate) on_failover: Option<String>,
    pub(crate) on_role_change: Option<String>,
    pub(crate) on_down: Option<String>,
    /// Of one attempt.
    pub(crate) timeout: Duration,
    pub(crate) webhook: Option<Webhook>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// Another server is primary, and announced.
    Failover,
    /// A server was seen in another role than before.
    RoleChange,
    /// A server does not answer.
    Down,
}

impl Occasion {
    fn word(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::RoleChange => "role_change",
            Self::Down => "down",
        }
    }
}

/// Something that happened, with what is known of it.
#[derive(Debug, Clone)]
pub(crate) struct Fact {
    pub(crate) occasion: Occasion,
    pub(crate) facts: Map<String, Value>,
}

/// The queues of all services.
#[derive(Debug)]
pub(crate) struct Hooks {
    settings: watch::Sender<Arc<HookSettings>>,
    queues: BTreeMap<String, mpsc::Sender<Fact>>,
}

impl Hooks {
    /// Nothing has happened yet.
    pub(crate) fn new(settings: HookSettings) -> Self {
        Self { settings: watch::Sender::new(Arc::new(settings)), queues: BTreeMap::new() }
    }

    /// Tells what happened, some time soon.
    pub(crate) fn tell(&mut self, service: &str, occasion: Occasion, mut facts: Map<String, Value>) {
        let settings = self.settings.borrow().clone();
        if settings.command(occasion).is_none() && settings.webhook.is_none() {
            return;
        }
        facts.insert("event".to_owned(), occasion.word().into());
        facts.insert("service".to_owned(), service.into());
        let queue = self.queues.entry(service.to_owned()).or_insert_with(|| {
            let (queue, facts) = mpsc::channel(WAITING);
            tokio::spawn(work(self.settings.subscribe(), facts));
            queue
        });
        if queue.try_send(Fact { occasion, facts }).is_err() {
            warn!(service, "{WAITING} hooks wait already; `{}` is dropped", occasion.word());
        }
    }

    /// From the next fact on by these settings, also of those that wait.
    pub(crate) fn replace(&self, settings: HookSettings) {
        self.settings.send_replace(Arc::new(settings));
    }

    /// The service is gone; what waits is still told.
    pub(crate) fn forget(&mut self, service: &str) {
        self.queues.remove(service);
    }
}

impl HookSettings {
    fn command(&self, occasion: Occasion) -> Option<&str> {
        match occasion {
            Occasion::Failover => self.on_failover.as_deref(),
            Occasion::RoleChange => self.on_role_change.as_deref(),
            Occasion::Down => self.on_down.as_deref(),
        }
    }
}

/// One service: one fact after the other.
async fn work(settings: watch::Receiver<Arc<HookSettings>>, mut facts: mpsc::Receiver<Fact>) {
    while let Some(fact) = facts.recv().await {
        let settings = settings.borrow().clone();
        if let Some(line) = settings.command(fact.occasion) {
            attempt(&settings, &fact, "the command", || run(line, &fact)).await;
        }
        if let Some(webhook) = &settings.webhook {
            let what = format!("the webhook {webhook}");
            attempt(&settings, &fact, &what, || webhook.post(json(&fact))).await;
        }
    }
}

async fn attempt<F>(settings: &HookSettings, fact: &Fact, what: &str, act: impl Fn() -> F)
where
    F: Future<Output = Result<(), String>>,
{
    let (service, event) = (fact.facts["service"].as_str().unwrap_or_default(), fact.occasion.word());
    let mut rests = RESTS.iter();
    loop {
        let done = timeout(settings.timeout, act()).await;
        let why = match done {
            Ok(Ok(())) => return debug!(service, "{what} was told of `{event}`"),
            Ok(Err(why)) => why,
            Err(_) => format!("not done within {} ms", settings.timeout.as_millis()),
        };
        match rests.next() {
            Some(rest) => {
                warn!(service, "{what} failed for `{event}`: {why}; it is tried again");
                sleep(*rest).await;
            }
            None => return warn!(service, "{what} failed for `{event}`: {why}; it is given up"),
        }
    }
}

/// A child and all that it started; gone when dropped.
struct Family(tokio::process::Child);

impl Drop for Family {
    fn drop(&mut self) {
        if let Some(group) = self.0.id().and_then(|pid| libc::pid_t::try_from(pid).ok()) {
            kill_group(group);
        }
    }
}

#[allow(unsafe_code)]
fn kill_group(group: libc::pid_t) {
    // SAFETY: a system call on numbers only. The child was made the leader of a group of its own and has not been waited
    // for, so the number cannot belong to anybody else.
    unsafe {
        libc::kill(-group, libc::SIGKILL);
    }
}

/// `sh -c LINE` with the facts in its environment. Its output goes where ours goes.
async fn run(line: &str, fact: &Fact) -> Result<(), String> {
    let mut command = Command::new("/bin/sh");
    command
        .arg("-c")
        .arg(line)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    // Our own settings, passwords among them, are none of its business.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ALBIREO_")) {
        command.env_remove(name);
    }
    command.envs(environment(fact));
    let mut family = Family(command.spawn().map_err(|e| format!("sh: {e}"))?);
    let ended = family.0.wait().await.map_err(|e| e.to_string())?;
    if ended.success() { Ok(()) } else { Err(ended.to_string()) }
}

/// `ALBIREO_EVENT`, `ALBIREO_SERVICE`, one more for each fact, and all of them as `ALBIREO_JSON`.
fn environment(fact: &Fact) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let one = |(name, value): (&String, &Value)| (format!("ALBIREO_{}", name.to_uppercase()), text(value));
    fact.facts.iter().map(one).chain([("ALBIREO_JSON".to_owned(), json(fact))]).collect()
}

fn json(fact: &Fact) -> String {
    Value::Object(fact.facts.clone()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn facts() -> Map<String, Value> {
        let Value::Object(facts) = json!({"from": "a:1", "to": "b:1", "epoch": 4, "why": "it's gone; $(rm)"})
        else {
            panic!()
        };
        facts
    }

    #[test]
    fn what_a_command_finds_in_its_environment() {
        let all = environment(&Fact { occasion: Occasion::Failover, facts: facts() });
        let one = |name: &str| all.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        assert_eq!((one("ALBIREO_TO"), one("ALBIREO_EPOCH")), (Some("b:1"), Some("4")));
        assert_eq!(one("ALBIREO_WHY"), Some("it's gone; $(rm)"), "no shell ever reads it");
        let json: Value = serde_json::from_str(one("ALBIREO_JSON").unwrap()).unwrap();
        assert_eq!(json["from"], "a:1");
    }

    #[tokio::test]
    async fn one_after_the_other_and_none_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let line = format!(
            "[ $ALBIREO_EPOCH = 1 ] && {{ sleep 60 & wait; }}; echo $ALBIREO_EVENT $ALBIREO_EPOCH $ALBIREO_SERVICE >> {}",
            out.display()
        );
        let settings = HookSettings {
            on_failover: Some(line),
            timeout: Duration::from_millis(300),
            ..HookSettings::default()
        };
        let mut hooks = Hooks::new(settings);
        for epoch in 1..=4 {
            let mut facts = facts();
            facts.insert("epoch".into(), epoch.into());
            hooks.tell("posts", Occasion::Failover, facts);
        }
        hooks.tell("posts", Occasion::Down, facts());
        let expected = "failover 2 posts\nfailover 3 posts\nfailover 4 posts\n";
        for _ in 0..300 {
            sleep(Duration::from_millis(100)).await;
            if std::fs::read_to_string(&out).is_ok_and(|text| text == expected) {
                return;
            }
        }
        panic!("{:?}", std::fs::read_to_string(&out));
    }
}
