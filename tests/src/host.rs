//! Where a server runs and how it is reached: loopback, or a network namespace.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// A place with an address. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Host {
    name: String,
    ip: IpAddr,
    /// The open namespace; none on loopback.
    namespace: Option<Arc<File>>,
}

impl Host {
    /// This machine's loopback.
    pub fn local() -> Self {
        Self { name: "local".to_owned(), ip: Ipv4Addr::LOCALHOST.into(), namespace: None }
    }

    pub(crate) fn in_namespace(name: &str, ip: IpAddr, namespace: File) -> Self {
        Self { name: name.to_owned(), ip, namespace: Some(Arc::new(namespace)) }
    }

    /// Its name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// An address on it.
    pub fn at(&self, port: u16) -> SocketAddr {
        (self.ip, port).into()
    }

    /// A port that is free on it.
    pub fn free_port(&self) -> u16 {
        crate::ports::free()
    }

    /// Connects from this host. The stream keeps belonging to it, whichever thread uses it.
    pub fn connect(&self, to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
        self.run(|| TcpStream::connect_timeout(&to, limit))
    }

    /// Runs something as if on this host: on a thread of its own inside the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let Some(namespace) = self.descriptor() else { return work() };
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                enter(namespace).unwrap_or_else(|e| panic!("cannot enter the namespace: {e}"));
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// What a child has to enter before it becomes its program.
    pub(crate) fn descriptor(&self) -> Option<RawFd> {
        self.namespace.as_ref().map(|file| file.as_raw_fd())
    }
}

/// Moves the calling thread into a network namespace.
#[allow(unsafe_code)]
pub(crate) fn enter(namespace: RawFd) -> io::Result<()> {
    // SAFETY: setns takes two integers and touches no memory of ours; a bad descriptor is an error.
    let done = unsafe { libc::setns(namespace, libc::CLONE_NEWNET) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
