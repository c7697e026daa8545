//! The sockets: a thread with a runtime of its own, a task per connection, and bounds on everything that a client can
//! make it hold. Idle connections are not closed; one that does not read what it asked for is.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use failover::{Declined, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use topology::Endpoint;
use tracing::{debug, info, warn};

use super::answers;
use super::connection::{Connection, Login, Outcome};
use super::protocol::{Parsed, QUERY_MAX, Reply, parse};
use crate::clock::Clock;
use crate::discovery::Reader;
use crate::discovery::news::Announcement;
use crate::driver::Input;
use crate::files;

/// How long a client may take to read what waits for it.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// What is written at once.
const CHUNK: usize = 64 * 1024;
/// As many connections, and half of the files that the process may open: the rest is for the servers and ZooKeeper, which
/// come first.
const CONNECTIONS_MAX: usize = 20_000;

/// What a connection needs.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) board: Reader,
    pub(crate) clock: Clock,
    pub(crate) driver: mpsc::UnboundedSender<Input>,
    pub(crate) login: Option<Login>,
}

/// Binds the endpoint.
pub(crate) async fn bind(addr: &Endpoint) -> io::Result<std::net::TcpListener> {
    TcpListener::bind((addr.host(), addr.port())).await?.into_std()
}

/// Serves until the process ends.
pub(crate) fn start(listener: std::net::TcpListener, desk: Desk) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _inside = runtime.enter();
        TcpListener::from_std(listener)?
    };
    let serve = move || runtime.block_on(accept(listener, Arc::new(desk)));
    std::thread::Builder::new().name("sentinel".to_owned()).spawn(serve).map(drop)
}

async fn accept(listener: TcpListener, desk: Arc<Desk>) {
    let (open, next) = (Arc::new(AtomicUsize::new(0)), AtomicI64::new(1));
    let most = files::share(2, CONNECTIONS_MAX);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Too many open files, or a client that gave up.
                warn!(%error, "a Sentinel client was not accepted");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let place = Place::take(&open);
        if open.load(Ordering::Relaxed) > most {
            let _ = stream.try_write(b"-ERR max number of clients reached\r\n");
            continue;
        }
        let (id, desk) = (next.fetch_add(1, Ordering::Relaxed), desk.clone());
        tokio::spawn(async move {
            let _place = place;
            let _ = stream.set_nodelay(true);
            if let Err(error) = serve(stream, id, &desk).await {
                debug!(%error, "a Sentinel client is gone");
            }
        });
    }
}

/// A connection that counts while it is there.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve(mut stream: TcpStream, id: i64, desk: &Desk) -> io::Result<()> {
    let mut connection = Connection::new(id, desk.login.as_ref());
    let (mut query, mut news) = (Vec::new(), None);
    loop {
        tokio::select! {
            read = stream.read_buf(&mut query) => {
                if read? == 0 {
                    return Ok(());
                }
                if !answer(&mut stream, &mut connection, &mut query, &mut news, desk).await? {
                    return linger(stream).await;
                }
            }
            heard = next(&mut news) => {
                let mut out = Vec::new();
                hear(&connection, heard, &mut out)?;
                write(&mut stream, &mut out).await?;
            }
        }
    }
}

type News = Option<broadcast::Receiver<Announcement>>;

/// The next announcement; never, for one that does not subscribe.
async fn next(news: &mut News) -> Result<Announcement, RecvError> {
    match news {
        Some(news) => news.recv().await,
        None => std::future::pending().await,
    }
}

fn hear(
    connection: &Connection<'_>,
    heard: Result<Announcement, RecvError>,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    let heard = heard.map_err(|_| io::Error::other("it does not read what it subscribed to"))?;
    connection.hears(&heard).iter().for_each(|reply| reply.write(connection.speaks_resp3(), out));
    Ok(())
}

/// Answers every whole command that has come; `false` ends the connection.
async fn answer(
    stream: &mut TcpStream,
    connection: &mut Connection<'_>,
    query: &mut Vec<u8>,
    news: &mut News,
    desk: &Desk,
) -> io::Result<bool> {
    let (mut used, mut out) = (0, Vec::new());
    let goes_on = loop {
        let (command, length) = match parse(&query[used..]) {
            Parsed::Half if query.len() - used > 2 * QUERY_MAX => break false,
            Parsed::Half => break true,
            Parsed::Whole(command, length) => (command, length),
            Parsed::Broken(why) => {
                Reply::error(format!("ERR Protocol error: {why}")).write(connection.speaks_resp3(), &mut out);
                break false;
            }
        };
        used += length;
        // Looked at anew for each command, and never held while anything is awaited.
        let outcome = connection.take(&command, &desk.board.facts.borrow(), desk.clock.now());
        let (replies, closes) = match outcome {
            Outcome::Replies(replies) => (replies, false),
            Outcome::Close(reply) => (vec![reply], true),
            Outcome::Failover(name) => {
                write(stream, &mut out).await?;
                (vec![failover(&name, desk).await], false)
            }
        };
        for reply in &replies {
            reply.write(connection.speaks_resp3(), &mut out);
        }
        match (connection.subscribes(), &news) {
            // Confirmed in this answer: what comes from now on is heard.
            (true, None) => *news = Some(desk.board.news.subscribe()),
            (false, Some(_)) => *news = None,
            (true, Some(_)) | (false, None) => {}
        }
        if closes {
            break false;
        }
        if out.len() >= CHUNK {
            write(stream, &mut out).await?;
        }
    };
    query.drain(..used);
    query.shrink_to(CHUNK);
    write(stream, &mut out).await?;
    Ok(goes_on)
}

async fn write(stream: &mut TcpStream, out: &mut Vec<u8>) -> io::Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    timeout(WRITE_LIMIT, stream.write_all(out)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    out.clear();
    Ok(())
}

/// Ends a connection so that the client reads its last reply: what it still sends is taken in and thrown away, within
/// bounds.
async fn linger(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = [0; 4096];
    let drain = async {
        for _ in 0..2 * QUERY_MAX / rest.len() {
            if stream.read(&mut rest).await? == 0 {
                break;
            }
        }
        Ok(())
    };
    timeout(Duration::from_secs(1), drain).await.unwrap_or(Ok(()))
}

/// Hands a failover to the driver. It is answered as soon as it is seen to have begun; it may take a while to end.
async fn failover(name: &str, desk: &Desk) -> Reply {
    info!(service = name, "a Sentinel client asks for a failover");
    let (answer, mut answered) = oneshot::channel();
    let request = Request::Switchover { to: None };
    let stopping = || Reply::error("ERR this monitor is stopping");
    if desk.driver.send(Input::Request(name.to_owned(), request, answer)).is_err() {
        return stopping();
    }
    let mut facts = desk.board.facts.clone();
    loop {
        let outcome = tokio::select! {
            outcome = &mut answered => outcome,
            changed = facts.changed() => {
                let facts = facts.borrow_and_update();
                let master = facts.services.get(name).and_then(|service| service.shown());
                if changed.is_err() || master.is_some_and(|master| master.in_progress) {
                    return Reply::ok();
                }
                continue;
            }
        };
        return match outcome {
            Ok(Some(Ok(_))) => Reply::ok(),
            Ok(Some(Err(declined))) => refusal(&declined),
            Ok(None) => Reply::error("ERR No such master with that name"),
            Err(_) => stopping(),
        };
    }
}

fn refusal(declined: &Declined) -> Reply {
    match declined {
        Declined::Busy => answers::in_progress(),
        Declined::NotLeading => {
            Reply::error("ERR this monitor does not lead; ask the other one for the failover")
        }
        Declined::NoRecord
        | Declined::NoMember(_)
        | Declined::Paused
        | Declined::IsPrimary(_)
        | Declined::TooFew { .. }
        | Declined::NobodyEligible(_)
        | Declined::Unfit(..)
        | Declined::NobodyFit(_)
        | Declined::AlreadyPrimary(_)
        | Declined::Unready(_)
        | Declined::NotLevel(..)
        | Declined::GivenBack(_)
        | Declined::Overtaken(_) => Reply::error(format!("NOGOODSLAVE {declined}")),
        Declined::TimedOut(..) => Reply::error(format!("ERR {declined}")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{SocketAddr, TcpStream};
    use std::time::Instant;

    use super::*;
    use crate::discovery::Board;
    use crate::discovery::facts::examples::{facts, service};
    use crate::discovery::facts::{Facts, Service};

    const LIMIT: Duration = Duration::from_secs(20);

    /// An endpoint whose driver is the test.
    fn serve() -> (SocketAddr, Board, mpsc::UnboundedReceiver<Input>) {
        // A minute: the driver does not turn in here.
        let board = Board::new(Facts { stale_after: Duration::from_secs(60), ..facts() });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let (driver, inbox) = mpsc::unbounded_channel();
        start(listener, Desk { board: board.reader(), clock: Clock::start(), driver, login: None }).unwrap();
        (addr, board, inbox)
    }

    fn open(addr: SocketAddr, greeting: &str) -> TcpStream {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(greeting.as_bytes()).unwrap();
        stream
    }

    fn read_until(stream: &mut TcpStream, end: &str) -> String {
        let (mut said, mut chunk) = (Vec::new(), [0; 64 * 1024]);
        while !said.ends_with(end.as_bytes()) {
            let read = stream.read(&mut chunk).unwrap();
            assert!(read > 0, "closed after {} bytes", said.len());
            said.extend(&chunk[..read]);
        }
        String::from_utf8(said).unwrap()
    }

    /// The service with the primary at 6379 or at 6380.
    fn turn(board: &mut Board, first: bool) {
        let ports = if first { [6379, 6380] } else { [6380, 6379] };
        board.service("posts", |_| service(&ports));
    }

    #[test]
    fn commands_may_come_in_any_pieces_and_replies_come_in_order() {
        let (addr, _board, _inbox) = serve();
        let text = "PING a\r\n*2\r\n$4\r\nPING\r\n$1\r\nb\r\nNONSENSE\r\n\r\nPING c\r\n";
        let expected = "$1\r\na\r\n$1\r\nb\r\n-ERR unknown command 'NONSENSE', this is a Sentinel endpoint and holds no \
                        data\r\n$1\r\nc\r\n";
        assert_eq!(read_until(&mut open(addr, text), "c\r\n"), expected, "all at once");
        let mut slow = open(addr, "");
        slow.set_nodelay(true).unwrap();
        text.bytes().for_each(|byte| slow.write_all(&[byte]).unwrap());
        assert_eq!(read_until(&mut slow, "c\r\n"), expected, "byte by byte");
        let mut many = open(addr, &"PING x\r\n".repeat(100_000));
        let said = read_until(&mut many, "x\r\n");
        assert!(said.len() <= 700_000);
    }

    #[test]
    fn a_subscriber_that_does_not_read_is_dropped_and_delays_nobody() {
        let (addr, mut board, _inbox) = serve();
        turn(&mut board, true);
        let confirmed = "*3\r\n$10\r\npsubscribe\r\n$1\r\n*\r\n:1\r\n";
        let mut deaf = open(addr, "PSUBSCRIBE *\r\n");
        assert_eq!(read_until(&mut deaf, ":1\r\n"), confirmed);
        let mut reads = open(addr, "SUBSCRIBE +switch-master\r\n");
        read_until(&mut reads, ":1\r\n");
        let begun = Instant::now();
        // The deaf one's buffers take some megabytes; a write to it then waits for five seconds.
        let mut switches = 0;
        loop {
            for _ in 0..200 {
                turn(&mut board, switches % 2 == 1);
                switches += 1;
            }
            let last = if switches % 2 == 1 { "6380\r\n" } else { "6379\r\n" };
            let mut heard = 0;
            while heard < 200 {
                heard += read_until(&mut reads, last).matches("message").count();
            }
            assert_eq!(heard, 200);
            let now = if switches % 2 == 1 { "6380\r\n" } else { "6379\r\n" };
            let mut asks = open(addr, "SENTINEL get-master-addr-by-name posts\r\n");
            assert!(read_until(&mut asks, now).starts_with("*2"));
            if begun.elapsed() > WRITE_LIMIT + Duration::from_secs(2) {
                break;
            }
        }
        // What had been written is there; after that the connection is over.
        let mut chunk = vec![0; 1 << 20];
        loop {
            match deaf.read(&mut chunk) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                    break;
                }
            }
        }
    }

    #[test]
    fn what_comes_of_a_failover() {
        let (addr, mut board, mut inbox) = serve();
        let cases = [
            (Some(Err(Declined::NotLeading)), "-ERR this monitor does not lead"),
            (Some(Err(Declined::Busy)), "-INPROG "),
            (Some(Err(Declined::NobodyFit(vec![]))), "-NOGOODSLAVE "),
            (Some(Ok(failover::Done::FailedOver(None))), "+OK\r\n"),
            (None, "-ERR No such master"),
        ];
        for (outcome, expected) in cases {
            let mut client = open(addr, "SENTINEL failover posts\r\n");
            let Some(Input::Request(name, request, answer)) = inbox.blocking_recv() else { panic!() };
            assert_eq!((name.as_str(), request), ("posts", Request::Switchover { to: None }));
            answer.send(outcome).unwrap();
            let said = read_until(&mut client, "\r\n");
            assert!(said.starts_with(expected), "{said}");
        }
        // Begun is enough.
        let mut client = open(addr, "SENTINEL failover posts\r\n");
        let waiting = inbox.blocking_recv();
        let mut promoting: Service = service(&[6379, 6380]);
        promoting.master.as_mut().unwrap().in_progress = true;
        board.service("posts", |_| promoting);
        assert_eq!(read_until(&mut client, "\r\n"), "+OK\r\n");
        assert_eq!(
            read_until(&mut open(addr, "SENTINEL failover posts\r\n"), "\r\n").get(..7),
            Some("-INPROG")
        );
        drop(waiting);
    }

    #[test]
    fn thousands_of_idle_connections() {
        let (addr, mut board, _inbox) = serve();
        turn(&mut board, true);
        let most = files::share(2, CONNECTIONS_MAX).min(4000); // each takes two files of this process
        let idle: Vec<TcpStream> = (0..most / 2).map(|_| TcpStream::connect(addr).unwrap()).collect();
        let mut asks = open(addr, "SENTINEL get-master-addr-by-name posts\r\n");
        assert!(read_until(&mut asks, "6379\r\n").starts_with("*2"));
        drop(idle);
    }
}
