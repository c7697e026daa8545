//! Reading, following and conditional publishing over ZooKeeper.
//!
//! A [`Store`] is a supervised session: it connects in the background as long as it takes, survives lost
//! connections, and begins a new session after an expiry. Every call has a deadline, and every change has one of
//! three outcomes: made, certainly not made, unknown. [`Store::at`] binds calls to one session, so that what a
//! monitor decided under its old session is never applied under a new one.
//!
//! This is the only part of the crate with a clock or I/O.
#![allow(clippy::disallowed_methods)]

mod error;
mod follow;
mod link;
#[cfg_attr(not(feature = "zookeeper-tls"), path = "insecure.rs")]
mod secure;

use core::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant as Deadline, timeout_at};
use zookeeper_client::{
    Acl, Acls, Client, CreateMode, CreateOptions, Error, MultiWriteError, MultiWriteResult, Permission,
};

use crate::ZnodePath;
use error::{NotSent, multi_error, publish_error, read_error};
use follow::Lanes;
use link::{Link, LinkView};

pub use error::{PublishError, ReadError};
pub use follow::{Followed, Seen};

/// In place of an expected version: whatever is there.
pub const ANY_VERSION: i32 = -1;

/// The largest content that is sent, in bytes. A server drops the connection of whoever sends more than 1 MiB
/// in one request.
pub const DATA_MAX: usize = 1_000_000;

/// With `auth` the creator may do everything and anybody may read: other clients follow the announcement.
static CREATOR_AND_READERS: [Acl; 2] =
    [Acl::new_const(Permission::ALL, "auth", ""), Acl::new_const(Permission::READ, "world", "anyone")];

/// What is nobody else's affair, not even to read.
static CREATOR: [Acl; 1] = [Acl::new_const(Permission::ALL, "auth", "")];

/// How to reach the ensemble.
#[derive(Clone)]
pub struct Options {
    /// `host:port,host:port` with an optional `/chroot` at the end.
    pub hosts: String,
    /// The session timeout to ask for; the server has bounds of its own (usually 4 to 40 seconds).
    pub session_timeout: Duration,
    /// The longest wait of one call, connecting included.
    pub call_timeout: Duration,
    /// User and password (scheme `digest`).
    pub auth: Option<(String, String)>,
    /// TLS with every server, and with none without it. Without the feature `zookeeper-tls` no connection is made then.
    pub tls: Option<tls::Tls>,
    /// With `auth` this znode and all below it are created for that user alone; all else can be read by anybody.
    pub private: Option<ZnodePath>,
}

impl Options {
    /// The defaults: 6 s per session, 2 s per call, nobody in particular.
    pub fn new(hosts: impl Into<String>) -> Self {
        Self {
            hosts: hosts.into(),
            session_timeout: Duration::from_secs(6),
            call_timeout: Duration::from_secs(2),
            auth: None,
            tls: None,
            private: None,
        }
    }

    /// How long a host may be silent: with 6 s per session 1.5 s, which leaves time for a second and a third host
    /// before the session expires.
    fn host_timeout(&self) -> Duration {
        (self.session_timeout / 4).clamp(Duration::from_millis(200), Duration::from_secs(2))
    }

    fn is_private(&self, path: &str) -> bool {
        let below = |root: &ZnodePath| {
            path.strip_prefix(root.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.private.as_ref().is_some_and(below)
    }

    /// `/chroot`, or nothing.
    fn chroot(&self) -> &str {
        self.hosts.find('/').map_or("", |at| &self.hosts[at..])
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("hosts", &self.hosts)
            .field("session_timeout", &self.session_timeout)
            .field("call_timeout", &self.call_timeout)
            .field("auth", &self.auth.as_ref().map(|(user, _)| format!("{user}:***")))
            .field("tls", &self.tls)
            .finish()
    }
}

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionPhase {
    /// No session yet; hosts are being tried.
    Connecting,
    /// A server answers.
    Connected,
    /// The connection is lost; the session may still be alive, and so may its ephemeral znodes.
    Disconnected,
    /// The session is over; a new one is being sought.
    Expired,
    /// The store is being closed.
    Closing,
    /// The store was closed; nothing follows.
    Closed,
}

impl SessionPhase {
    /// Whether this session may go on.
    pub fn is_alive(self) -> bool {
        matches!(self, SessionPhase::Connected | SessionPhase::Disconnected)
    }
}

/// The store's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// 0 before the first session, then one more with each new one. A higher one than last seen means: the old
    /// session was lost, with all its ephemeral znodes.
    pub generation: u64,
    /// Where it stands.
    pub phase: SessionPhase,
    /// Since when it is connected, or is not.
    pub since: Instant,
}

/// What a znode holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The content.
    pub data: Vec<u8>,
    /// How often it was changed since the znode was created. A znode that is deleted and created again begins at
    /// 0 again: never delete what others check.
    pub version: i32,
}

/// How long a znode lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Until it is deleted.
    Persistent,
    /// Until the session ends.
    Ephemeral,
}

/// One part of a change that is made as a whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// The znode must be at this version.
    Check {
        /// The znode.
        path: String,
        /// The version.
        version: i32,
    },
    /// Replace the content at this version.
    Set {
        /// The znode.
        path: String,
        /// The new content.
        data: Vec<u8>,
        /// The version expected there, or [`ANY_VERSION`].
        version: i32,
    },
    /// Create a persistent znode.
    Create {
        /// The znode.
        path: String,
        /// Its content.
        data: Vec<u8>,
    },
    /// Delete the znode at this version.
    Delete {
        /// The znode.
        path: String,
        /// The version expected there, or [`ANY_VERSION`].
        version: i32,
    },
}

impl Op {
    /// [`Op::Check`].
    pub fn check(path: impl Into<String>, version: i32) -> Self {
        Self::Check { path: path.into(), version }
    }

    /// [`Op::Set`].
    pub fn set(path: impl Into<String>, data: impl Into<Vec<u8>>, version: i32) -> Self {
        Self::Set { path: path.into(), data: data.into(), version }
    }

    /// [`Op::Create`].
    pub fn create(path: impl Into<String>, data: impl Into<Vec<u8>>) -> Self {
        Self::Create { path: path.into(), data: data.into() }
    }

    /// The znode.
    pub fn path(&self) -> &str {
        match self {
            Op::Check { path, .. }
            | Op::Set { path, .. }
            | Op::Create { path, .. }
            | Op::Delete { path, .. } => path,
        }
    }

    fn expected(&self) -> i32 {
        match self {
            Op::Check { version, .. } | Op::Set { version, .. } | Op::Delete { version, .. } => *version,
            Op::Create { .. } => ANY_VERSION,
        }
    }

    fn data(&self) -> &[u8] {
        match self {
            Op::Set { data, .. } | Op::Create { data, .. } => data,
            Op::Check { .. } | Op::Delete { .. } => &[],
        }
    }
}

/// Access to ZooKeeper. A clone is cheap and shares the session. When the last clone is dropped the session ends
/// in the background; [`Store::close`] waits for that.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    bound: Option<u64>,
    queue: Option<Queue>,
}

/// In which queue a call waits for its turn ([`Store::queued`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// Somebody waits for it: a failover.
    Urgent,
    /// Everything else that comes once per service.
    Usual,
}

/// Calls of one queue that are under way at a time. One server answers about 5000 writes in a second, each after 0.7 to
/// 2.5 ms, and after ten times that where it has to share a busy processor: so many keep it busy then, too. A thousand at once
/// make each of them wait for all others, beyond its deadline, and then again.
const AT_ONCE: usize = 128;

struct Shared {
    options: Options,
    link: Arc<Link>,
    view: LinkView,
    lanes: Lanes,
    urgent: Semaphore,
    usual: Semaphore,
}

/// The turn of one call.
struct Turn<'a> {
    client: Client,
    deadline: Deadline,
    _permit: Option<SemaphorePermit<'a>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("options", &self.shared.options).field("bound", &self.bound).finish()
    }
}

impl Store {
    /// Returns at once and connects in the background. Needs a tokio runtime.
    pub fn open(options: Options) -> Self {
        let link = Arc::new(Link::open(options.clone()));
        let lanes = Lanes::new(options.clone(), link.clone());
        let (urgent, usual) = (Semaphore::new(AT_ONCE), Semaphore::new(AT_ONCE));
        let shared = Shared { options, view: link.view(), link, lanes, urgent, usual };
        Self { shared: Arc::new(shared), bound: None, queue: None }
    }

    /// The session, to be watched.
    pub fn session(&self) -> watch::Receiver<Session> {
        self.shared.link.session()
    }

    /// Why no server can be reached, if that is so and was found out.
    pub fn why_unreachable(&self) -> Option<String> {
        self.shared.view.why()
    }

    /// The timeout that the server granted to the session of this generation; `None` once that one is over.
    pub fn session_timeout(&self, generation: u64) -> Option<Duration> {
        self.shared.view.session_timeout(generation)
    }

    /// The same store, whose calls fail as [`PublishError::SessionOver`] once the session of this generation is
    /// over. Nothing that is sent through it is ever applied under a later session.
    #[must_use]
    pub fn at(&self, generation: u64) -> Self {
        Self { bound: Some(generation), ..self.clone() }
    }

    /// The same store, whose calls wait for their turn, so that thousands may be made at once: few of each queue are under
    /// way at a time, first come, first served. The wait is not counted as part of the call.
    #[must_use]
    pub fn queued(&self, queue: Queue) -> Self {
        Self { queue: Some(queue), ..self.clone() }
    }

    async fn turn(&self) -> Result<Turn<'_>, NotSent> {
        let gate = self.queue.map(|queue| match queue {
            Queue::Urgent => &self.shared.urgent,
            Queue::Usual => &self.shared.usual,
        });
        let permit = match gate {
            // It is never closed.
            Some(gate) => gate.acquire().await.ok(),
            None => None,
        };
        let deadline = self.deadline();
        let client = self.shared.view.client(self.bound, deadline).await?;
        Ok(Turn { client, deadline, _permit: permit })
    }

    /// Ends the session, so that its ephemeral znodes vanish at once, and waits for that, at most the call
    /// timeout. Afterwards every call fails as unreachable.
    pub async fn close(&self) {
        let (links, deadline) = (self.shared.lanes.links(), self.deadline());
        links.iter().for_each(|link| link.stop());
        for link in links {
            link.closed(deadline).await;
        }
    }

    /// What is at `path`, `None` if there is no such znode. Sees every change that was answered before the call,
    /// by whichever server.
    pub async fn get(&self, path: &str) -> Result<Option<Versioned>, ReadError> {
        let Turn { client, deadline, _permit } = self.turn().await?;
        // Both are sent at once; the server answers them in this order.
        let (sync, get) = (client.sync(path), client.get_data(path));
        let answer = timeout_at(deadline, async { sync.await.and(get.await) }).await;
        match read_answer(answer, path)? {
            Some((data, stat)) => Ok(Some(Versioned { data, version: stat.version })),
            None => Ok(None),
        }
    }

    /// The names of the znodes below `path`, sorted; `None` if there is no such znode. As fresh as [`Store::get`].
    pub async fn children(&self, path: &str) -> Result<Option<Vec<String>>, ReadError> {
        let Turn { client, deadline, _permit } = self.turn().await?;
        let (sync, list) = (client.sync(path), client.list_children(path));
        let answer = timeout_at(deadline, async { sync.await.and(list.await) }).await;
        let mut children = read_answer(answer, path)?;
        if let Some(children) = &mut children {
            children.sort_unstable();
        }
        Ok(children)
    }

    /// Creates a znode whose parent exists.
    pub async fn create(&self, path: &str, data: &[u8], mode: Mode) -> Result<(), PublishError> {
        fits(path, data)?;
        let options = self.create_options(path, mode);
        self.change(path, ANY_VERSION, async |client| client.create(path, data, &options).await.map(drop))
            .await
    }

    /// Creates every missing ancestor of `path`, but not `path` itself; also those of a chroot in the hosts.
    pub async fn create_parents(&self, path: &str) -> Result<(), PublishError> {
        let ends = path.char_indices().skip(1).filter(|(_, c)| *c == '/').map(|(at, _)| at);
        for end in ends {
            self.ensure_one(&path[..end], false).await?;
        }
        Ok(())
    }

    /// Creates `path`, empty, and every missing ancestor, unless it is there.
    pub async fn ensure(&self, path: &str) -> Result<(), PublishError> {
        self.create_parents(path).await?;
        self.ensure_one(path, false).await
    }

    /// Creates the chroot named in the hosts, if there is one and it is missing.
    pub async fn ensure_chroot(&self) -> Result<(), PublishError> {
        let chroot = self.shared.options.chroot();
        for end in chroot.char_indices().skip(1).filter(|(_, c)| *c == '/').map(|(at, _)| at) {
            self.ensure_one(&chroot[..end], true).await?;
        }
        if chroot.len() > 1 { self.ensure_one(chroot, true).await } else { Ok(()) }
    }

    /// Replaces the content if it is at the version `expected` (or [`ANY_VERSION`]); returns the new version.
    pub async fn set(&self, path: &str, data: &[u8], expected: i32) -> Result<i32, PublishError> {
        fits(path, data)?;
        self.change(path, expected, async |client| {
            client.set_data(path, data, Some(expected)).await.map(|stat| stat.version)
        })
        .await
    }

    /// Deletes the znode if it is at the version `expected` (or [`ANY_VERSION`]) and has no children.
    pub async fn delete(&self, path: &str, expected: i32) -> Result<(), PublishError> {
        self.change(path, expected, async |client| client.delete(path, Some(expected)).await).await
    }

    /// Makes all changes or none. Returns, per operation, the new version of what was set, 0 for what was
    /// created, and -1 for a check or a deletion.
    pub async fn multi(&self, ops: Vec<Op>) -> Result<Vec<i32>, PublishError> {
        let total = ops.iter().map(|op| op.data().len()).sum::<usize>();
        if let Some(first) = ops.first().filter(|_| total > DATA_MAX) {
            return Err(too_large(first.path(), total));
        }
        let Turn { client, deadline, _permit } = self.turn().await?;
        let options = |path: &str| self.create_options(path, Mode::Persistent);
        match timeout_at(deadline, commit(&client, &ops, options)).await {
            Ok(Ok(results)) => Ok(results.iter().map(version_of).collect()),
            Ok(Err(error)) => Err(multi_error(error, &ops)),
            Err(_) => Err(PublishError::Unknown("no answer in time".to_string())),
        }
    }

    /// Keeps up with the content of one znode over all sessions: creation, change, deletion. The first value is
    /// [`Seen::NotYet`]; quick changes may be seen as one, the last one always is. Ends when the receiver and its
    /// clones are dropped, or the store is closed.
    pub fn follow(&self, path: &str) -> watch::Receiver<Followed<Versioned>> {
        self.shared.lanes.follow(path.to_string())
    }

    /// Keeps up with the names of the znodes below `path`, sorted, as [`Store::follow`] does with content.
    pub fn follow_children(&self, path: &str) -> watch::Receiver<Followed<Vec<String>>> {
        self.shared.lanes.follow(path.to_string())
    }

    fn deadline(&self) -> Deadline {
        Deadline::now() + self.shared.options.call_timeout
    }

    fn create_options(&self, path: &str, mode: Mode) -> CreateOptions<'static> {
        let options = &self.shared.options;
        let acls = match options.auth {
            Some(_) if options.is_private(path) => Acls::new(&CREATOR),
            Some(_) => Acls::new(&CREATOR_AND_READERS),
            None => Acls::anyone_all(),
        };
        match mode {
            Mode::Persistent => CreateMode::Persistent.with_acls(acls),
            Mode::Ephemeral => CreateMode::Ephemeral.with_acls(acls),
        }
    }

    /// One change with a deadline. Once it is sent and no answer comes, its outcome is unknown.
    async fn change<T>(
        &self,
        path: &str,
        expected: i32,
        call: impl AsyncFnOnce(Client) -> Result<T, Error>,
    ) -> Result<T, PublishError> {
        let Turn { client, deadline, _permit } = self.turn().await?;
        match timeout_at(deadline, call(client)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(publish_error(error, path, expected)),
            Err(_) => Err(PublishError::Unknown("no answer in time".to_string())),
        }
    }

    /// Creates one empty znode unless it is there; with `absolute` the path does not begin at the chroot.
    async fn ensure_one(&self, path: &str, absolute: bool) -> Result<(), PublishError> {
        // What leads to a chroot is not ours alone.
        let options = self.create_options(if absolute { "/" } else { path }, Mode::Persistent);
        let made = self
            .change(path, ANY_VERSION, async |client| {
                let client =
                    if absolute { client.chroot("/").unwrap_or_else(|client| client) } else { client };
                // Looking first spares those who may read but not create.
                match client.check_stat(path).await? {
                    Some(_) => Ok(()),
                    None => client.create(path, &[], &options).await.map(drop),
                }
            })
            .await;
        match made {
            Err(PublishError::Exists { .. }) => Ok(()),
            made => made,
        }
    }
}

async fn commit(
    client: &Client,
    ops: &[Op],
    options: impl Fn(&str) -> CreateOptions<'static>,
) -> Result<Vec<MultiWriteResult>, MultiWriteError> {
    let mut writer = client.new_multi_writer();
    for op in ops {
        match op {
            Op::Check { path, version } => writer.add_check_version(path, *version)?,
            Op::Set { path, data, version } => writer.add_set_data(path, data, Some(*version))?,
            Op::Create { path, data } => writer.add_create(path, data, &options(path))?,
            Op::Delete { path, version } => writer.add_delete(path, Some(*version))?,
        }
    }
    writer.commit().await
}

fn version_of(result: &MultiWriteResult) -> i32 {
    match result {
        MultiWriteResult::SetData { stat } => stat.version,
        MultiWriteResult::Create { .. } => 0,
        MultiWriteResult::Check | MultiWriteResult::Delete | _ => -1,
    }
}

fn read_answer<T>(
    answer: Result<Result<T, Error>, tokio::time::error::Elapsed>,
    path: &str,
) -> Result<Option<T>, ReadError> {
    match answer {
        Ok(Ok(content)) => Ok(Some(content)),
        Ok(Err(Error::NoNode)) => Ok(None),
        Ok(Err(error)) => Err(read_error(error, path)),
        Err(_) => Err(ReadError::Unreachable("no answer in time".to_string())),
    }
}

fn fits(path: &str, data: &[u8]) -> Result<(), PublishError> {
    if data.len() > DATA_MAX { Err(too_large(path, data.len())) } else { Ok(()) }
}

fn too_large(path: &str, bytes: usize) -> PublishError {
    PublishError::Refused { path: path.to_string(), why: format!("{bytes} bytes are more than {DATA_MAX}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every call can be spawned.
    #[allow(dead_code)]
    fn calls_are_send(store: &'static Store) {
        fn send<T: Send>(_: T) {}
        send(store.get("/a"));
        send(store.children("/a"));
        send(store.create("/a", b"", Mode::Ephemeral));
        send(store.ensure("/a"));
        send(store.ensure_chroot());
        send(store.set("/a", b"", 0));
        send(store.delete("/a", 0));
        send(store.multi(Vec::new()));
        send(store.close());
    }

    #[test]
    fn a_password_is_never_printed() {
        let options = Options { auth: Some(("bob".into(), "s3cret".into())), ..Options::new("a:1/x") };
        let text = format!("{options:?}");
        assert!(text.contains("bob:***") && !text.contains("s3cret"), "{text}");
        assert_eq!(options.chroot(), "/x");
        assert_eq!(Options::new("a:1,b:2").chroot(), "");
    }
}
