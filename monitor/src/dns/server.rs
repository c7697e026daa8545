//! The sockets: a thread with a runtime of its own, one task for UDP and one per TCP connection, and bounds on everything
//! that a client can make it hold.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crowd::Guest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket, lookup_host};
use tokio::time::{sleep, timeout};
use topology::Endpoint;
use tracing::{debug, warn};

use super::Settings;
use super::message::{Over, Reply, reply};
use super::zone::Zone;
use crate::clock::Clock;
use crate::discovery::Reader;
use crate::metrics::{DnsQueries, Refused};
use crate::quiet::Quiet;

/// How long a client may take for its next question, from the first byte to the last and before that.
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// How long a client may take to read what waits for it.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// As many TCP connections at a time: DNS is asked over UDP, but for answers that do not fit there.
const CONNECTIONS_MAX: usize = 128;
/// No question over UDP is longer; of one that is, the rest is lost.
const QUESTION_MAX: usize = 4096;

/// What an answer needs.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) board: Reader,
    pub(crate) clock: Clock,
    pub(crate) settings: Settings,
    pub(crate) queries: DnsQueries,
    pub(crate) refused: Refused,
}

/// The bound sockets.
#[derive(Debug)]
pub(crate) struct Sockets {
    udp: std::net::UdpSocket,
    tcp: std::net::TcpListener,
}

/// Binds both ports of the server.
pub(crate) async fn bind(addr: &Endpoint) -> io::Result<Sockets> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for at in lookup_host((addr.host(), addr.port())).await? {
        match bind_at(at).await {
            Ok(sockets) => return Ok(sockets),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

async fn bind_at(at: SocketAddr) -> io::Result<Sockets> {
    let over = |which: &str, error: io::Error| io::Error::new(error.kind(), format!("{which}: {error}"));
    let udp = UdpSocket::bind(at).await.map_err(|error| over("UDP", error))?;
    let tcp = TcpListener::bind(at).await.map_err(|error| over("TCP", error))?;
    Ok(Sockets { udp: udp.into_std()?, tcp: tcp.into_std()? })
}

/// Serves until the process ends.
pub(crate) fn start(sockets: Sockets, desk: Desk) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (udp, tcp) = {
        let _inside = runtime.enter();
        (UdpSocket::from_std(sockets.udp)?, TcpListener::from_std(sockets.tcp)?)
    };
    let zone = Zone::new(&desk.settings);
    let counter = Arc::new(Counter { desk, zone, warned: Mutex::default() });
    let serve = move || {
        runtime.block_on(async {
            tokio::join!(answer_packets(&udp, &counter), accept(&tcp, &counter));
        });
    };
    std::thread::Builder::new().name("dns".to_owned()).spawn(serve).map(drop)
}

/// Where questions are answered.
struct Counter {
    desk: Desk,
    zone: Zone,
    /// Of which names it was told that they belong to several services.
    warned: Mutex<BTreeSet<String>>,
}

impl Counter {
    fn reply(&self, bytes: &[u8], over: Over) -> Option<Reply> {
        let mut ambiguous = None;
        let reply = reply(bytes, over, |question, turn| {
            // Looked at anew for each question, and let go before anything is written.
            let facts = self.desk.board.facts.borrow();
            let mut answer = self.zone.answer(question, &facts, turn, self.desk.clock.now());
            ambiguous = answer.ambiguous.take();
            answer
        })?;
        if let Some(name) = ambiguous {
            self.warn_of(name);
        }
        self.desk.queries.count(reply.code);
        Some(reply)
    }

    fn warn_of(&self, name: String) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if !warned.contains(&name) {
            warn!(
                service = name,
                "several services are called so but for the case of letters, which DNS does not know: it names \
                 neither; rename one"
            );
            warned.insert(name);
        }
    }
}

async fn answer_packets(socket: &UdpSocket, counter: &Counter) {
    let (mut packet, mut quiet) = ([0; QUESTION_MAX], Quiet::default());
    loop {
        match socket.recv_from(&mut packet).await {
            Ok((length, from)) => {
                if let Some(reply) = counter.reply(&packet[..length], Over::Udp) {
                    // Nobody waits for a client: what the socket cannot take at once is lost, as anything over UDP may be.
                    if let Err(error) = socket.try_send_to(&reply.bytes, from) {
                        debug!(%error, "a DNS answer was not sent");
                    }
                }
            }
            Err(error) => pause(&error, &mut quiet, counter).await,
        }
    }
}

async fn accept(listener: &TcpListener, counter: &Arc<Counter>) {
    let (crowd, mut quiet) = (counter.desk.refused.crowd(CONNECTIONS_MAX), Quiet::default());
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                pause(&error, &mut quiet, counter).await;
                continue;
            }
        };
        // Without a guest everybody is being answered, which does not last: closed at once.
        let Some(guest) = crowd.enter() else { continue };
        let counter = counter.clone();
        tokio::spawn(async move {
            tokio::select! {
                ended = converse(stream, &counter, &guest) => if let Err(error) = ended {
                    debug!(%error, "a DNS client is gone");
                },
                () = guest.asked_to_leave() => {}
            }
        });
    }
}

/// Too many open files, for example: it may be better in a moment.
async fn pause(error: &io::Error, quiet: &mut Quiet, counter: &Counter) {
    if quiet.is_due("socket", counter.desk.clock.now()) {
        warn!(%error, "a DNS client was not taken in");
    }
    sleep(Duration::from_millis(100)).await;
}

/// One question after the other, each with its length before it, until the client has no more or is too slow.
async fn converse(mut stream: TcpStream, counter: &Counter, guest: &Guest) -> io::Result<()> {
    stream.set_nodelay(true)?;
    while let Ok(question) = timeout(IDLE_LIMIT, next(&mut stream)).await {
        // It has asked something.
        drop(guest.busy());
        let Some(reply) = counter.reply(&question?, Over::Tcp) else { break };
        let Ok(length) = u16::try_from(reply.bytes.len()) else { break }; // cannot be: `Over::Tcp` has that limit
        let out = [&length.to_be_bytes(), &reply.bytes[..]].concat();
        timeout(WRITE_LIMIT, stream.write_all(&out)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    }
    Ok(())
}

async fn next(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut question = vec![0; usize::from(length)];
    stream.read_exact(&mut question).await?;
    Ok(question)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpStream, UdpSocket};
    use std::time::Instant;

    use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
    use hickory_proto::rr::{Name, RecordType};

    use super::*;
    use crate::discovery::Board;
    use crate::discovery::facts::Facts;
    use crate::discovery::facts::examples::{facts, service};
    use crate::dns::Host;

    const LIMIT: Duration = Duration::from_secs(20);

    fn desk(board: &Board) -> Desk {
        let listen: Endpoint = "127.0.0.1:53".parse().unwrap();
        let zone = "albireo.internal".parse().unwrap();
        let settings = Settings { host: Host::of(&listen).unwrap(), listen, zone, ttl: 0 };
        let (queries, refused) = (DnsQueries::default(), Refused::default());
        Desk { board: board.reader(), clock: Clock::start(), settings, queries, refused }
    }

    /// A server whose driver is the test.
    fn serve() -> (SocketAddr, Board) {
        // A minute: the driver does not turn in here.
        let board = Board::new(Facts { stale_after: Duration::from_secs(60), ..facts() });
        let (udp, tcp) = loop {
            let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
                break (udp, tcp);
            }
        };
        let addr = tcp.local_addr().unwrap();
        tcp.set_nonblocking(true).unwrap();
        udp.set_nonblocking(true).unwrap();
        start(Sockets { udp, tcp }, desk(&board)).unwrap();
        (addr, board)
    }

    fn question(id: u16, name: &str) -> Vec<u8> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::SRV));
        message.set_edns(Edns::new());
        message.to_vec().unwrap()
    }

    fn client() -> UdpSocket {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        client
    }

    /// Asks until the answer to this very question comes: what junk is answered with may still be on its way.
    #[track_caller]
    fn answers(client: &UdpSocket, server: SocketAddr, id: u16) {
        let (deadline, mut packet) = (Instant::now() + LIMIT, [0; 4096]);
        loop {
            // A packet may be lost where many come at once.
            client.send_to(&question(id, "primary.posts.albireo.internal."), server).unwrap();
            let Ok((length, _)) = client.recv_from(&mut packet) else {
                assert!(Instant::now() < deadline, "no answer");
                continue;
            };
            if let Ok(reply) = Message::from_vec(&packet[..length])
                && reply.metadata.id == id
                && reply.metadata.response_code == ResponseCode::NoError
            {
                assert_eq!(reply.answers.len(), 1);
                return;
            }
        }
    }

    fn open(server: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
    }

    /// The next reply; none if the connection was closed.
    fn receive(stream: &mut TcpStream) -> Option<Message> {
        let mut length = [0; 2];
        stream.read_exact(&mut length).ok()?;
        let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut reply).ok()?;
        Some(Message::from_vec(&reply).unwrap())
    }

    /// Numbers that look like chance, the same in every run (xorshift).
    struct Numbers(u64);

    impl Numbers {
        fn from(seed: u64) -> Self {
            Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        }

        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 16) as usize % bound
        }

        fn byte(&mut self) -> u8 {
            self.below(256) as u8
        }

        /// Any bytes, or a good question with some bytes changed, left out or doubled.
        fn junk(&mut self) -> Vec<u8> {
            if self.below(3) == 0 {
                return (0..self.below(600)).map(|_| self.byte()).collect();
            }
            let names =
                ["primary.posts.albireo.internal.", "_redis._tcp.replica.posts.albireo.internal.", "."];
            let mut bytes = question(self.below(65_536) as u16, names[self.below(names.len())]);
            for _ in 0..=self.below(6) {
                let at = self.below(bytes.len());
                match self.below(6) {
                    0 => bytes.truncate(at.max(1)),
                    1 => bytes.extend_from_within(at..),
                    2 => bytes[at] = [0, 0xc0, 0x3f, 0x40, 0xff][self.below(5)],
                    _ => bytes[at] = self.byte(),
                }
            }
            bytes
        }
    }

    #[test]
    fn over_udp_and_over_tcp_question_after_question() {
        let (server, mut board) = serve();
        let client = client();
        for id in 0..100 {
            answers(&client, server, id);
        }
        let mut stream = open(server);
        // Several at once, byte by byte.
        let asked: Vec<u8> =
            (0..10).flat_map(|id| framed(&question(id, "replica.posts.albireo.internal."))).collect();
        asked.iter().for_each(|byte| stream.write_all(&[*byte]).unwrap());
        for id in 0..10 {
            let reply = receive(&mut stream).unwrap();
            assert_eq!((reply.metadata.id, reply.answers.len()), (id, 2));
        }
        board.service("Posts", |_| service(&[6380]));
        stream.write_all(&framed(&question(11, "primary.posts.albireo.internal."))).unwrap();
        assert_eq!(receive(&mut stream).unwrap().metadata.response_code, ResponseCode::ServFail);
    }

    #[test]
    fn junk_gets_an_error_or_nothing() {
        let (server, _board) = serve();
        let client = client();
        for seed in 1..=20 {
            let mut numbers = Numbers::from(seed);
            for _ in 0..200 {
                client.send_to(&numbers.junk(), server).unwrap();
            }
            client.send_to(&[0; 60_000], server).unwrap();
            answers(&client, server, 7);
            let mut stream = open(server);
            for _ in 0..50 {
                // It may be closed at any of them.
                let _ = stream.write_all(&framed(&numbers.junk()));
            }
            let half = numbers.below(20);
            let _ = stream.write_all(&framed(&question(1, "."))[..half]);
            let mut stream = open(server);
            stream.write_all(&framed(&question(3, "primary.posts.albireo.internal."))).unwrap();
            assert_eq!(receive(&mut stream).unwrap().metadata.id, 3, "seed {seed}");
        }
    }

    #[test]
    fn whatever_bytes_come_in_what_goes_out_can_be_read() {
        let board = Board::new(Facts { stale_after: Duration::from_secs(600), ..facts() });
        let desk = desk(&board);
        let counter = Counter { zone: Zone::new(&desk.settings), desk, warned: Mutex::default() };
        let mut codes = BTreeSet::new();
        for seed in 1..=200 {
            let mut numbers = Numbers::from(seed);
            for _ in 0..500 {
                let junk = numbers.junk();
                let Some(reply) = counter.reply(&junk, Over::Udp) else { continue };
                assert!(reply.bytes.len() <= 1232, "{junk:02x?}");
                let read = Message::from_vec(&reply.bytes).unwrap_or_else(|e| panic!("{e}: {junk:02x?}"));
                assert_eq!(read.metadata.id.to_be_bytes(), junk[..2]);
                assert_eq!(read.metadata.message_type, MessageType::Response);
                codes.insert(u16::from(reply.code));
            }
        }
        assert_eq!(codes, [0, 1, 3, 4, 5, 16].into(), "all but SERVFAIL");
    }

    #[test]
    fn connections_are_few_and_do_not_stay_for_ever() {
        let (server, _board) = serve();
        let idle: Vec<TcpStream> = (0..CONNECTIONS_MAX).map(|_| open(server)).collect();
        let mut last = idle.last().unwrap();
        // Taken in order: once the last of them is answered, all have their place.
        last.write_all(&framed(&question(1, "."))).unwrap();
        assert!(receive(&mut last.try_clone().unwrap()).is_some());
        // Who comes is heard all the same, and a silent one leaves.
        let mut others = Vec::new();
        for id in 0..1000 {
            let mut another = open(server);
            if id % 100 == 99 {
                another.write_all(&framed(&question(id, "."))).unwrap();
                assert_eq!(receive(&mut another).unwrap().metadata.id, id);
            }
            others.push(another);
        }
        answers(&client(), server, 3);
        // Nobody says anything: all are closed in the end, also one that began to.
        let mut half = &idle[0];
        let _ = half.write_all(&[0]); // on a slow machine it is closed already
        for mut stream in &idle {
            // A signal interrupts it: children of other tests end in this process.
            let end = loop {
                match stream.read(&mut [0; 1]).map_err(|error| error.kind()) {
                    Err(std::io::ErrorKind::Interrupted) => {}
                    end => break end,
                }
            };
            assert!(matches!(end, Ok(0) | Err(std::io::ErrorKind::ConnectionReset)), "{end:?}");
        }
        let mut again = open(server);
        again.write_all(&framed(&question(4, "."))).unwrap();
        assert_eq!(receive(&mut again).unwrap().metadata.id, 4);
    }
}
