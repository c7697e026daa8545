//! A link that takes its time: frames of one host pass through this process, which holds them back.
//!
//! Kernels without `netem` cannot delay packets. Here the cable of a host is replaced by two TAP devices, one in its
//! namespace and one at the bridge, and a thread per direction carries each frame over when its time has come. Frames
//! keep their order. Without a delay the link costs some ten microseconds.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::netns::Hosts;

/// The longest Ethernet frame of a device with the usual MTU.
const FRAME: usize = 1600;
/// How many frames may be under way in one direction; more are lost, as in a router.
const QUEUE: usize = 4096;

/// The link of one host. It ends with the namespaces.
#[derive(Debug)]
pub struct Wire {
    delay: Arc<Delay>,
}

/// Microseconds.
#[derive(Debug, Default)]
struct Delay {
    least: AtomicU64,
    most: AtomicU64,
}

impl Wire {
    /// Takes the cable of this host over. Nobody on it may be listening yet.
    #[track_caller]
    pub fn between(hosts: &Hosts, name: &str) -> Self {
        let ip = hosts.host(name).ip();
        let (bridge, space) = hosts.spaces(name);
        let device = format!("tap-{name}");
        run(&["-n", space, "link", "del", "eth0"]);
        run(&["-n", space, "tuntap", "add", "dev", "eth0", "mode", "tap"]);
        run(&["-n", space, "address", "add", &format!("{ip}/24"), "dev", "eth0"]);
        run(&["-n", bridge, "tuntap", "add", "dev", &device, "mode", "tap"]);
        let delay = Arc::new(Delay::default());
        let inside = open(space, "eth0").unwrap_or_else(|e| panic!("a TAP device of {name}: {e}"));
        let outside = open(bridge, &device).unwrap_or_else(|e| panic!("a TAP device of the bridge: {e}"));
        run(&["-n", space, "link", "set", "eth0", "up"]);
        run(&["-n", bridge, "link", "set", &device, "master", "br0", "up"]);
        let copies = inside.try_clone().and_then(|copy| Ok((copy, outside.try_clone()?)));
        let (into, out) = copies.unwrap_or_else(|e| panic!("a TAP device: {e}"));
        carry(inside, out, Arc::clone(&delay));
        carry(outside, into, Arc::clone(&delay));
        Self { delay }
    }

    /// From now on every frame takes between `least` and `most`, in each direction.
    pub fn set_delay(&self, least: Duration, most: Duration) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.delay.least.store(micros(least), Ordering::Relaxed);
        self.delay.most.store(micros(most), Ordering::Relaxed);
    }
}

impl Delay {
    fn draw(&self, rng: &mut fastrand::Rng) -> Duration {
        let least = self.least.load(Ordering::Relaxed);
        let most = self.most.load(Ordering::Relaxed).max(least);
        Duration::from_micros(rng.u64(least..=most))
    }
}

/// Two threads: one takes frames in and gives each its time, one sends them when it has come. Both end with the device.
fn carry(mut from: File, mut to: File, delay: Arc<Delay>) {
    let (queue, due) = mpsc::sync_channel::<(Instant, Vec<u8>)>(QUEUE);
    thread::spawn(move || {
        let (mut rng, mut buffer, mut last) = (fastrand::Rng::new(), [0; FRAME], Instant::now());
        while let Ok(length) = from.read(&mut buffer) {
            let at = Instant::now() + delay.draw(&mut rng);
            last = last.max(at);
            let frame = buffer.get(..length).unwrap_or_default().to_vec();
            if let Err(mpsc::TrySendError::Disconnected(_)) = queue.try_send((last, frame)) {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (at, frame) in due {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            // A device that is down loses the frame; a device that is gone ends the reader.
            let _ = to.write_all(&frame);
        }
    });
}

/// The descriptor behind a TAP device of a namespace.
#[allow(unsafe_code)]
fn open(space: &str, device: &str) -> io::Result<File> {
    let namespace = File::open(format!("/run/netns/{space}"))?;
    let inside = || {
        crate::host::enter(namespace.as_raw_fd())?;
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
        // SAFETY: all-zero bytes are a valid ifreq, which is integers and arrays of them.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (place, byte) in request.ifr_name.iter_mut().zip(device.bytes().take(15)) {
            *place = libc::c_char::try_from(byte).unwrap_or(0);
        }
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_TAP | libc::IFF_NO_PI).unwrap_or(0);
        // SAFETY: TUNSETIFF reads and writes one ifreq, which lives until the call returns.
        let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &mut request) };
        if done == 0 { Ok(file) } else { Err(io::Error::last_os_error()) }
    };
    // A thread of its own, for it stays in the namespace.
    thread::scope(|scope| scope.spawn(inside).join())
        .unwrap_or_else(|_| Err(io::Error::other("the thread that opens the device panicked")))
}

#[track_caller]
fn run(words: &[&str]) {
    let output = Command::new("ip").args(words).output().unwrap_or_else(|e| panic!("ip: {e}"));
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {why}", words.join(" "));
}
