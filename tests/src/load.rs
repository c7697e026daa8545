//! Traffic that proves something: a closed loop of writes of unique keys and reads of what was just written, which
//! never retries, so that every failure and every pause shows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::http::{Answer, Connection, Request};
use crate::{Host, machine, wait};

/// How to load.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the clients are.
    pub host: Host,
    /// The APIs; worker `n` uses the one at `n` modulo their number.
    pub apis: Vec<SocketAddr>,
    /// How many connections, each with one request at a time.
    pub workers: usize,
    /// How long a worker rests after each answer.
    pub pace: Duration,
    /// Whether each write is followed by a read of the same key.
    pub reads: bool,
    /// How long an answer may take before it counts as failed.
    pub limit: Duration,
    /// `[api] token`.
    pub token: Option<String>,
}

impl Options {
    /// Four workers that write and read about a thousand times a second in all.
    pub fn new(host: &Host, apis: Vec<SocketAddr>) -> Self {
        Self {
            host: host.clone(),
            apis,
            workers: 4,
            pace: Duration::from_millis(2),
            reads: true,
            limit: Duration::from_secs(10),
            token: None,
        }
    }

    /// With the header that the token asks for.
    fn call(&self, connection: &mut Connection, request: Request<'_>) -> std::io::Result<Answer> {
        let Some(token) = &self.token else { return connection.call(request) };
        connection.call(Request { headers: &[("authorization", &format!("Bearer {token}"))], ..request })
    }

    /// Starts it.
    pub fn start(self) -> Load {
        let shared = Arc::new(Shared::default());
        let workers = (0..self.workers).map(|worker| {
            let (options, shared) = (self.clone(), Arc::clone(&shared));
            thread::spawn(move || Worker::new(worker, options, shared).run())
        });
        let workers = workers.collect();
        Load { options: self, shared, workers }
    }
}

/// What a request was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A PUT of a key that nobody else writes.
    Write,
    /// A GET of a key whose write was acknowledged on this connection.
    Read,
}

/// One request and what came of it.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Whether it wrote.
    pub kind: Kind,
    /// The key; its value is `value-KEY`.
    pub key: String,
    /// Just before it was sent.
    pub start: Instant,
    /// When its answer was there.
    pub end: Instant,
    /// The status; none if the connection broke or nothing came in time.
    pub status: Option<u16>,
    /// `x-albireo-epoch` and `x-albireo-primary`.
    pub given_by: Option<(u64, String)>,
    /// What was wrong, if anything was.
    pub wrong: Option<String>,
}

impl Sample {
    /// See [`machine::excuse`]: for a request that was not answered in time. A wrong answer has none.
    fn excuse(&self) -> String {
        match self.status {
            None | Some(500..) => machine::excuse(self.start, self.end),
            Some(_) => String::new(),
        }
    }
}

/// A load that is running. It stops when dropped.
#[derive(Debug)]
pub struct Load {
    options: Options,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<Vec<Sample>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// The highest epoch under which a write was acknowledged.
    epoch: AtomicU64,
    acknowledged: AtomicU64,
}

impl Load {
    /// The highest epoch under which a write was acknowledged so far.
    pub fn epoch(&self) -> u64 {
        self.shared.epoch.load(Ordering::Acquire)
    }

    /// How many writes were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Acquire)
    }

    /// Waits until so many more writes are acknowledged.
    #[track_caller]
    pub fn wait_for_writes(&self, more: u64, limit: Duration) {
        let goal = self.acknowledged() + more;
        wait::until(&format!("{more} more acknowledged writes"), limit, || {
            let now = self.acknowledged();
            wait::holds(now >= goal, || format!("{} missing", goal - now))
        });
    }

    /// Waits until a write is acknowledged under a higher epoch than this one.
    #[track_caller]
    pub fn wait_for_epoch_above(&self, epoch: u64, limit: Duration) {
        wait::until(&format!("a write acknowledged above epoch {epoch}"), limit, || {
            wait::holds(self.epoch() > epoch, || format!("still {}", self.epoch()))
        });
    }

    /// Ends the load and gives all that happened.
    pub fn stop(mut self) -> Report {
        self.shared.stop.store(true, Ordering::Release);
        let samples = self.workers.drain(..).flat_map(|worker| worker.join().unwrap_or_default());
        let mut samples: Vec<Sample> = samples.collect();
        samples.sort_by_key(|sample| sample.end);
        Report { options: self.options.clone(), samples }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
    }
}

struct Worker {
    number: usize,
    options: Options,
    shared: Arc<Shared>,
    connection: Option<Connection>,
    samples: Vec<Sample>,
}

impl Worker {
    fn new(number: usize, options: Options, shared: Arc<Shared>) -> Self {
        Self { number, options, shared, connection: None, samples: Vec::new() }
    }

    fn run(mut self) -> Vec<Sample> {
        let mut count = 0_u64;
        while !self.shared.stop.load(Ordering::Acquire) {
            let key = format!("w{}-{count}", self.number);
            count += 1;
            if self.request(Kind::Write, &key) && self.options.reads {
                thread::sleep(self.options.pace);
                self.request(Kind::Read, &key);
            }
            thread::sleep(self.options.pace);
        }
        self.samples
    }

    /// One request; whether it was answered with 200 and the right value.
    fn request(&mut self, kind: Kind, key: &str) -> bool {
        let start = Instant::now();
        let answer = self.exchange(kind, key);
        let end = Instant::now();
        let wrong = match &answer {
            Ok(answer) => fault_of(answer, key),
            Err(e) => Some(e.to_string()),
        };
        let answer = answer.ok();
        let given_by = answer.as_ref().and_then(given_by);
        let good = wrong.is_none();
        if good && kind == Kind::Write {
            let epoch = given_by.as_ref().map_or(0, |(epoch, _)| *epoch);
            self.shared.epoch.fetch_max(epoch, Ordering::AcqRel);
            self.shared.acknowledged.fetch_add(1, Ordering::AcqRel);
        }
        let status = answer.map(|answer| answer.status);
        self.samples.push(Sample { kind, key: key.to_owned(), start, end, status, given_by, wrong });
        good
    }

    fn exchange(&mut self, kind: Kind, key: &str) -> std::io::Result<Answer> {
        // A connection that broke is replaced for the next request; the request that saw it break has failed.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let Options { host, apis, limit, .. } = &self.options;
                Connection::open(host, apis[self.number % apis.len()], *limit)?
            }
        };
        let answer = match kind {
            Kind::Write => {
                let (path, value) = (format!("/api/v1/write/{key}"), format!("value-{key}"));
                self.options.call(&mut connection, Request::put(&path, value.as_bytes()))
            }
            Kind::Read => self.options.call(&mut connection, Request::get(&format!("/api/v1/get/{key}"))),
        };
        self.connection = answer.is_ok().then_some(connection);
        answer
    }
}

fn fault_of(answer: &Answer, key: &str) -> Option<String> {
    let expected = format!("value-{key}");
    let right = answer.status == 200 && answer.json()["value"].as_str() == Some(&expected);
    (!right).then(|| format!("{}: {}", answer.status, answer.text()))
}

fn given_by(answer: &Answer) -> Option<(u64, String)> {
    let epoch = answer.header("x-albireo-epoch")?.parse().ok()?;
    Some((epoch, answer.header("x-albireo-primary")?.to_owned()))
}

/// All that a load saw, in the order of the answers.
#[derive(Debug)]
pub struct Report {
    options: Options,
    /// One per request.
    pub samples: Vec<Sample>,
}

impl Report {
    /// The requests that were not answered with 200 and the right value.
    pub fn failed(&self) -> Vec<&Sample> {
        self.samples.iter().filter(|sample| sample.wrong.is_some()).collect()
    }

    /// The keys whose write was acknowledged.
    pub fn acknowledged(&self) -> Vec<&str> {
        self.acknowledgements().map(|sample| sample.key.as_str()).collect()
    }

    fn acknowledgements(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(|sample| sample.kind == Kind::Write && sample.wrong.is_none())
    }

    /// From `fault` (taken just before it) to the first acknowledged write under a higher epoch than any before it.
    pub fn gap(&self, fault: Instant) -> Option<Duration> {
        let epoch_of = |sample: &Sample| sample.given_by.as_ref().map(|(epoch, _)| *epoch);
        let before =
            self.acknowledgements().take_while(|sample| sample.end <= fault).filter_map(epoch_of).max()?;
        let first =
            self.acknowledgements().find(|s| s.end > fault && epoch_of(s).is_some_and(|e| e > before))?;
        Some(first.end - fault)
    }

    /// The longest time after `from` in which no write was acknowledged.
    pub fn longest_pause(&self, from: Instant) -> Duration {
        let mut last = from;
        let mut longest = Duration::ZERO;
        for sample in self.acknowledgements().filter(|sample| sample.end > from) {
            longest = longest.max(sample.end - last);
            last = sample.end;
        }
        longest
    }

    /// Every epoch under which more than one primary gave an answer: must be empty.
    pub fn epochs_with_two_primaries(&self) -> BTreeMap<u64, BTreeSet<&str>> {
        let mut seen: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
        for (epoch, primary) in self.samples.iter().filter_map(|sample| sample.given_by.as_ref()) {
            seen.entry(*epoch).or_default().insert(primary);
        }
        seen.retain(|_, primaries| primaries.len() > 1);
        seen
    }

    /// Reads every acknowledged key back: the keys that are gone or hold something else.
    ///
    /// Panics if a key cannot be read at all: then nothing is known.
    #[track_caller]
    pub fn lost(&self) -> Vec<String> {
        let keys = self.acknowledged();
        let share = keys.len().div_ceil(self.options.workers.max(1)).max(1);
        thread::scope(|scope| {
            let readers: Vec<_> = keys.chunks(share).map(|part| scope.spawn(|| self.missing(part))).collect();
            readers
                .into_iter()
                .flat_map(|reader| reader.join().unwrap_or_else(|e| std::panic::resume_unwind(e)))
                .collect()
        })
    }

    fn missing(&self, keys: &[&str]) -> Vec<String> {
        let Options { host, apis, limit, .. } = &self.options;
        let connection = Connection::open(host, apis[0], *limit);
        let mut connection = connection.unwrap_or_else(|e| panic!("cannot read back from {}: {e}", apis[0]));
        let mut missing = Vec::new();
        for key in keys {
            let path = format!("/api/v1/get/{key}");
            let answer = self.options.call(&mut connection, Request::get(&path));
            let answer = answer.unwrap_or_else(|e| panic!("cannot read {key} back: {e}"));
            match (answer.status, answer.json()["value"].as_str()) {
                (200, Some(value)) if value == format!("value-{key}") => {}
                (200 | 404, _) => missing.push((*key).to_owned()),
                (status, _) => panic!("cannot read {key} back: {status} {}", answer.text()),
            }
        }
        missing
    }

    /// Panics unless no request failed, no epoch had two primaries and no acknowledged write is lost.
    #[track_caller]
    pub fn assert_clean(&self) {
        self.assert_nothing_lost();
        let failed = self.failed();
        let first: Vec<_> = failed.iter().take(3).collect();
        let excuse = || match failed.iter().map(|sample| sample.excuse()).find(String::is_empty) {
            Some(none) => none,
            None => failed[0].excuse(),
        };
        assert!(
            failed.is_empty(),
            "{} of {} requests failed: {first:#?}{}",
            failed.len(),
            self.samples.len(),
            excuse()
        );
    }

    /// Panics unless no epoch had two primaries and no acknowledged write is lost.
    #[track_caller]
    pub fn assert_nothing_lost(&self) {
        assert!(!self.acknowledged().is_empty(), "no write was acknowledged at all");
        assert_eq!(self.epochs_with_two_primaries(), BTreeMap::new());
        let lost = self.lost();
        let first: Vec<_> = lost.iter().take(5).collect();
        assert!(lost.is_empty(), "{} of {} writes lost: {first:?}", lost.len(), self.acknowledged().len());
    }
}
