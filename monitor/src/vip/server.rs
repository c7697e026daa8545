//! The local Redis server: asked every `ping_interval_ms` whether it is master, over one connection, which is one process.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use topology::Endpoint;
use wire::{InfoReply, Link, Login, Reply, cmd};

use super::agent::{Event, Server};
use super::driver::Input;
use crate::clock::Clock;
use crate::redis::CLIENT_NAME;

/// Between two attempts to connect to a server that is down.
const ATTEMPT_EVERY: Duration = Duration::from_millis(50);

/// Whom to ask, and how.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) addr: Endpoint,
    pub(crate) login: Login,
    pub(crate) every: Duration,
    pub(crate) connect_timeout: Duration,
    /// A connection on which nothing came for so long is given up.
    pub(crate) patience: Duration,
}

/// A running probe; it ends when this is dropped.
pub(crate) struct Probe {
    look: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Probe {
    /// Starts it.
    pub(crate) fn start(target: Target, clock: Clock, tell: mpsc::UnboundedSender<Input>) -> Self {
        let look = Arc::new(Notify::new());
        let task = tokio::spawn(run(target, clock, look.clone(), tell));
        Self { look, task }
    }

    /// Asks now.
    pub(crate) fn look(&self) {
        self.look.notify_one();
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A closed connection alone says little: somebody may have cut all clients. That a new one fails says it all.
async fn run(target: Target, clock: Clock, look: Arc<Notify>, tell: mpsc::UnboundedSender<Input>) {
    let tell = |server| drop(tell.send(Input::Event(Event::Server(server))));
    loop {
        match Link::open(&target.addr, &target.login, CLIENT_NAME, target.connect_timeout).await {
            Ok(link) => {
                if !ask(&target, link, clock, &look, &tell).await {
                    sleep(ATTEMPT_EVERY).await;
                }
            }
            Err(error) => {
                tell(Server::Not(error.to_string()));
                sleep(ATTEMPT_EVERY).await;
            }
        }
    }
}

/// Asks until the connection ends; whether there was an answer.
async fn ask(target: &Target, mut link: Link, clock: Clock, look: &Notify, tell: &impl Fn(Server)) -> bool {
    let Some(run_id) = link.run_id().map(str::to_owned) else {
        tell(Server::Not(link.greeting_error().unwrap_or("it does not say which process it is").to_owned()));
        return false;
    };
    let mut answered = false;
    loop {
        let asked = clock.now();
        let answer = match timeout(target.patience, link.call(&[cmd!["INFO", "replication"]])).await {
            Ok(Ok(answers)) => answers.into_iter().next().unwrap_or(Reply::Nil),
            Ok(Err(_)) => return answered,
            Err(_) => {
                tell(Server::Not(format!("no answer within {} ms", target.patience.as_millis())));
                return answered;
            }
        };
        answered = true;
        tell(judge(&answer, &run_id, asked));
        tokio::select! {
            () = sleep(target.every) => {}
            () = look.notified() => {}
            // Nothing was asked: this can only be the end of the connection.
            _ = link.receiver().next() => return answered,
        }
    }
}

fn judge(answer: &Reply, run_id: &str, asked: failover::Time) -> Server {
    if let Some(error) = answer.error() {
        return match error.starts_with("BUSY") {
            true => Server::Busy { asked },
            false => Server::Not(error.to_owned()),
        };
    }
    let role = InfoReply::from_reply(answer).and_then(|info| info.field("role").map(str::to_owned));
    match role.as_deref() {
        Some("master") => Server::Primary { run_id: run_id.to_owned(), asked },
        Some("slave") => Server::Not("it is a replica".to_owned()),
        _ => Server::Not("its answer is not understood".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_a_server() {
        let asked = Duration::from_secs(1);
        let bulk = |text: &'static str| Reply::Bulk(text.as_bytes().into());
        let not = |why: &str| Server::Not(why.to_owned());
        for (answer, expected) in [
            (bulk("# Replication\r\nrole:master\r\n"), Server::Primary { run_id: "r".into(), asked }),
            (bulk("# Replication\r\nrole:slave\r\n"), not("it is a replica")),
            (bulk("role:sentinel\r\n"), not("its answer is not understood")),
            (Reply::Nil, not("its answer is not understood")),
            (Reply::Error("BUSY Redis is busy".into()), Server::Busy { asked }),
            (Reply::Error("LOADING Redis is".into()), not("LOADING Redis is")),
            (Reply::Error("NOPERM no".into()), not("NOPERM no")),
        ] {
            assert_eq!(judge(&answer, "r", asked), expected, "{answer:?}");
        }
    }
}
