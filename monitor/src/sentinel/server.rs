//! The sockets: a thread with a runtime of its own, a task per connection, and bounds on everything that a client can
//! make it hold. Idle connections are not closed but to make place for others ([`crowd`]), or where nobody has logged in on them; one that
//! does not read what it asked for is.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crowd::{Guest, files};
use failover::{Declined, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use topology::Endpoint;
use tracing::{debug, info, warn};

use super::answers::{self, PATIENCE};
use super::connection::{Connection, Login, Outcome};
use super::protocol::{Parsed, QUERY_MAX, Reply, parse};
use crate::clock::Clock;
use crate::discovery::Reader;
use crate::discovery::news::Announcement;
use crate::driver::Input;
use crate::metrics::Refused;

/// How long a client may take to read what waits for it.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// How long a client may take to log in, where it has to.
const LOGIN_LIMIT: Duration = Duration::from_secs(30);
/// After a question has waited for certainty, before another one of the same connection may.
const WAIT_REST: Duration = Duration::from_secs(1);
/// Before a wrong password is answered.
const WRONG_REST: Duration = Duration::from_secs(1);
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
    pub(crate) refused: Refused,
}

/// Binds the endpoint.
pub(crate) async fn bind(addr: &Endpoint) -> io::Result<std::net::TcpListener> {
    TcpListener::bind((addr.host(), addr.port())).await?.into_std()
}

/// Serves until the process ends.
pub(crate) fn start(listener: std::net::TcpListener, desk: Desk) -> io::Result<()> {
    start_with(listener, desk, files::share(2, CONNECTIONS_MAX))
}

fn start_with(listener: std::net::TcpListener, desk: Desk, most: usize) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _inside = runtime.enter();
        TcpListener::from_std(listener)?
    };
    let serve = move || runtime.block_on(accept(listener, Arc::new(desk), most));
    std::thread::Builder::new().name("sentinel".to_owned()).spawn(serve).map(drop)
}

async fn accept(listener: TcpListener, desk: Arc<Desk>, most: usize) {
    let (crowd, mut next) = (desk.refused.crowd(most), 0);
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
        let Some(guest) = crowd.enter() else {
            let _ = stream.try_write(b"-ERR max number of clients reached\r\n");
            continue;
        };
        next += 1;
        let (id, desk) = (next, desk.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            tokio::select! {
                ended = serve(stream, id, &desk, &guest) => if let Err(error) = ended {
                    debug!(%error, "a Sentinel client is gone");
                },
                () = guest.asked_to_leave() => {}
            }
        });
    }
}

async fn serve(mut stream: TcpStream, id: i64, desk: &Desk, guest: &Guest) -> io::Result<()> {
    let mut connection = Connection::new(id, desk.login.as_ref());
    let (mut query, mut news) = (Vec::new(), None);
    // Until when its last question that waited for certainty might do so.
    let mut patience = None;
    // Who subscribes is being answered for as long as that lasts.
    let mut listens = None;
    let late = sleep(LOGIN_LIMIT);
    tokio::pin!(late);
    loop {
        tokio::select! {
            read = stream.read_buf(&mut query) => {
                if read? == 0 {
                    return Ok(());
                }
                let goes_on = answer(
                    &mut stream, &mut connection, &mut query, (&mut news, &mut patience), (desk, guest)
                ).await?;
                // It has asked something.
                drop(guest.busy());
                if !goes_on {
                    return linger(stream).await;
                }
                match (&news, &listens) {
                    (Some(_), None) => listens = Some(guest.busy()),
                    (None, Some(_)) => listens = None,
                    (Some(_), Some(_)) | (None, None) => {}
                }
            }
            heard = next(&mut news) => {
                let mut out = Vec::new();
                hear(&connection, heard, &mut out)?;
                write(&mut stream, &mut out).await?;
            }
            () = &mut late, if !connection.is_logged_in() => return Err(io::ErrorKind::TimedOut.into()),
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
    (news, patience): (&mut News, &mut Option<Instant>),
    (desk, guest): (&Desk, &Guest),
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
        if connection.may_wait(&command, &desk.board.facts.borrow(), desk.clock.now()) {
            write(stream, &mut out).await?;
            let _busy = guest.busy();
            let until = match *patience {
                Some(until) if Instant::now() < until + WAIT_REST => until,
                Some(_) | None => *patience.insert(Instant::now() + PATIENCE),
            };
            // Then it is answered as it is.
            let _ = timeout_at(until, certainty(connection, &command, desk)).await;
        }
        // Looked at anew for each command, and never held while anything is awaited.
        let outcome = connection.take(&command, &desk.board.facts.borrow(), desk.clock.now());
        let (replies, closes) = match outcome {
            Outcome::Replies(replies) => (replies, false),
            Outcome::Close(reply) => (vec![reply], true),
            Outcome::Failover(name) => {
                write(stream, &mut out).await?;
                let _busy = guest.busy();
                (vec![failover(&name, desk).await], false)
            }
        };
        if connection.was_wrong() {
            desk.refused.logins.inc();
            write(stream, &mut out).await?;
            sleep(WRONG_REST).await;
        }
        for reply in &replies {
            reply.write(connection.speaks_resp3(), &mut out);
        }
        match (connection.subscribes(), &*news) {
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

/// Comes when waiting is of no use any more.
async fn certainty(connection: &Connection<'_>, command: &[Vec<u8>], desk: &Desk) {
    let mut named = desk.board.named.clone();
    loop {
        named.borrow_and_update();
        let waits = connection.may_wait(command, &desk.board.facts.borrow(), desk.clock.now());
        if !waits || named.changed().await.is_err() {
            return;
        }
    }
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

    use failover::Time;

    use super::*;
    use crate::discovery::Board;
    use crate::discovery::facts::examples::{facts, service};
    use crate::discovery::facts::{Facts, Service};

    const LIMIT: Duration = Duration::from_secs(20);

    /// An endpoint whose driver is the test.
    fn serve() -> (SocketAddr, Board, mpsc::UnboundedReceiver<Input>) {
        let (addr, board, inbox, _) = serve_with(None, CONNECTIONS_MAX);
        (addr, board, inbox)
    }

    fn serve_with(
        login: Option<Login>,
        most: usize,
    ) -> (SocketAddr, Board, mpsc::UnboundedReceiver<Input>, Refused) {
        // A minute: the driver does not turn in here.
        let board = Board::new(Facts { stale_after: Duration::from_secs(60), ..facts() });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let (driver, inbox) = mpsc::unbounded_channel();
        let refused = Refused::default();
        let clock = Clock::start();
        let desk = Desk { board: board.reader(), clock, driver, login, refused: refused.clone() };
        start_with(listener, desk, most).unwrap();
        (addr, board, inbox, refused)
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
            // On a machine with other work its buffers take long to fill.
            if deaf.write_all(b"PING\r\n").is_err() {
                break;
            }
            assert!(begun.elapsed() < 5 * LIMIT, "it is not dropped");
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
    fn who_asks_during_a_promotion_is_told_of_the_new_primary() {
        let (addr, mut board, _inbox) = serve();
        let promoting = |since: Time| {
            let mut service = service(&[6379, 6380]);
            service.master.as_mut().unwrap().in_progress = true;
            Service { doubted: Some(since), ..service }
        };
        let ask = || open(addr, "PING\r\nSENTINEL get-master-addr-by-name posts\r\n");
        // The clock of the endpoint is younger than an hour.
        let just_now = Time::from_secs(3600);
        let end = Instant::now() + LIMIT;
        // On a machine with other work each of these times may be too long.
        let is_woken = std::iter::repeat_with(|| {
            board.service("posts", |_| promoting(just_now));
            let mut asks = ask();
            let begun = Instant::now();
            let waits = read_until(&mut asks, "\r\n") == "+PONG\r\n";
            turn(&mut board, false);
            let named = read_until(&mut asks, "\r\n").ends_with("\r\n6380\r\n");
            waits && named && begun.elapsed() < PATIENCE
        });
        assert!(is_woken.take_while(|_| Instant::now() < end).any(|woken| woken), "nobody is woken");

        // Where it does not come to an end, nobody waits for long, however much is asked at once.
        board.service("posts", |_| promoting(just_now));
        let begun = Instant::now();
        let asked = "SENTINEL get-master-addr-by-name posts\r\nPING\r\n".repeat(1000);
        let mut asks = open(addr, &asked);
        let (mut said, expected) = (String::new(), "*-1\r\n+PONG\r\n".repeat(1000));
        while said.len() < expected.len() {
            said += &read_until(&mut asks, "\r\n");
        }
        assert_eq!(said, expected);
        assert!((PATIENCE..1000 * PATIENCE).contains(&begun.elapsed()), "{:?}", begun.elapsed());

        // But later the same connection waits again, though nothing else was asked on it meanwhile.
        std::thread::sleep(WAIT_REST);
        let begun = Instant::now();
        asks.write_all(b"SENTINEL get-master-addr-by-name posts\r\n").unwrap();
        assert_eq!(read_until(&mut asks, "\r\n"), "*-1\r\n");
        assert!(begun.elapsed() >= PATIENCE, "{:?}", begun.elapsed());
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
    fn a_thousand_who_say_nothing_keep_nobody_out_and_send_no_subscriber_away() {
        let (addr, mut board, _inbox, refused) = serve_with(None, 100);
        turn(&mut board, true);
        let mut subscriber = open(addr, "SUBSCRIBE +switch-master\r\n");
        read_until(&mut subscriber, ":1\r\n");
        let mut idle = Vec::new();
        for number in 0..1000 {
            idle.push(open(addr, ["", "*2\r\n$4\r\nPI"][number % 2]));
            if number % 100 == 99 {
                let mut asks = open(addr, "SENTINEL get-master-addr-by-name posts\r\n");
                assert!(read_until(&mut asks, "6379\r\n").starts_with("*2"), "after {number}");
            }
        }
        assert!(refused.connections.get() >= 900);
        turn(&mut board, false);
        assert!(read_until(&mut subscriber, "6380\r\n").contains("+switch-master"));
        // Who listens stays; with nobody else there, nobody more is let in.
        let (addr, mut board, _inbox, _) = serve_with(None, 2);
        turn(&mut board, true);
        let mut all = [open(addr, "SUBSCRIBE x\r\n"), open(addr, "SUBSCRIBE x\r\n")];
        all.iter_mut().for_each(|one| drop(read_until(one, ":1\r\n")));
        assert_eq!(read_until(&mut open(addr, ""), "\r\n"), "-ERR max number of clients reached\r\n");
    }

    #[test]
    fn a_wrong_password_is_answered_late_and_counted() {
        let login = Login { username: "default".to_owned(), password: settings::Secret::new("right") };
        let (addr, _board, _inbox, refused) = serve_with(Some(login), 10);
        let begun = Instant::now();
        let mut guesses = open(addr, "AUTH wrong\r\nHELLO 3 AUTH default worse\r\nAUTH right\r\nPING\r\n");
        let said = read_until(&mut guesses, "+PONG\r\n");
        assert_eq!((said.matches("-WRONGPASS").count(), said.matches("+OK").count()), (2, 1), "{said}");
        assert!(begun.elapsed() >= 2 * WRONG_REST);
        assert_eq!(refused.logins.get(), 2);
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
