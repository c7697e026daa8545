//! The three sockets of one side: how they are opened, and how one message is taken from them.

use super::{EndError, Frames, Options, StartError};

/// A heartbeat or a request that is longer ends the connection that it came through.
const FRAME_MAX: i64 = 64 * 1024;
/// Between two attempts to reach the peer, milliseconds; a restarted peer is heard 2 to 7 ms after it is back.
const RECONNECT_MS: (i32, i32) = (1, 5);

pub(super) struct Sockets {
    pub(super) publisher: Option<zmq::Socket>,
    pub(super) subscriber: Option<zmq::Socket>,
    pub(super) voter: Option<zmq::Socket>,
}

impl Sockets {
    /// A context of our own: when its last socket closes, its threads end and its ports are free.
    pub(super) fn open(options: &Options) -> Result<Self, StartError> {
        let Some(peer) = &options.peer else {
            return Ok(Sockets { publisher: None, subscriber: None, voter: None });
        };
        let context = zmq::Context::new();
        let publisher = socket(&context, zmq::PUB)?;
        bind(&publisher, &options.bind)?;
        let subscriber = socket(&context, zmq::SUB)?;
        subscriber.set_subscribe(b"")?;
        connect(&subscriber, peer)?;
        let voter = options.voter.as_ref().map(|endpoint| {
            let voter = socket(&context, zmq::ROUTER)?;
            bind(&voter, endpoint).map(|()| voter)
        });
        Ok(Sockets { publisher: Some(publisher), subscriber: Some(subscriber), voter: voter.transpose()? })
    }
}

fn socket(context: &zmq::Context, kind: zmq::SocketType) -> Result<zmq::Socket, zmq::Error> {
    let socket = context.socket(kind)?;
    socket.set_linger(0)?;
    socket.set_reconnect_ivl(RECONNECT_MS.0)?;
    socket.set_reconnect_ivl_max(RECONNECT_MS.1)?;
    socket.set_maxmsgsize(FRAME_MAX)?;
    // Hosts that vanish without a word must not pile up as open connections.
    socket.set_tcp_keepalive(1)?;
    socket.set_tcp_keepalive_idle(60)?;
    Ok(socket)
}

fn bind(socket: &zmq::Socket, endpoint: &str) -> Result<(), StartError> {
    socket.bind(endpoint).map_err(|why| StartError::Endpoint { endpoint: endpoint.into(), why })
}

fn connect(socket: &zmq::Socket, endpoint: &str) -> Result<(), StartError> {
    socket.connect(endpoint).map_err(|why| StartError::Endpoint { endpoint: endpoint.into(), why })
}

/// The next message, if one is there.
pub(super) fn receive(socket: Option<&zmq::Socket>) -> Result<Option<Frames>, EndError> {
    let Some(socket) = socket else { return Ok(None) };
    match socket.recv_multipart(zmq::DONTWAIT) {
        Ok(frames) => Ok(Some(frames)),
        Err(zmq::Error::EAGAIN | zmq::Error::EINTR) => Ok(None),
        Err(why) => Err(EndError::Socket(why)),
    }
}
