//! The heartbeat on the wire: one frame that tells the sender's state.
//!
//! Without a key it is the guide's: the state as one decimal digit. With a key the frame carries a MAC and proves
//! that it is *fresh*, without clocks and without anything kept on disk:
//!
//! * every process draws a random [`Instance`] when it starts, and counts its heartbeats from 1;
//! * every heartbeat names the sender's instance, its counter, and the instance of the peer that the sender hears.
//!
//! A heartbeat counts as the peer's only if it **names our present instance**: whoever wrote it has heard this very
//! process, so no recording from before our start is accepted. Within our life the counter of each instance must grow,
//! so each frame counts at most once. **One instance is the peer at a time, and another takes its place only once that one is
//! silent** ([`Wire::handle_silence`]). Nothing in a frame tells which of two instances is the younger one, but a
//! dead one falls silent and a living one does not. So a frame of a dead instance that was held back displaces no living
//! one; and should it come while the living one is not heard, that one is back as soon as the dead one is silent again: no
//! instance is shut out for good.
//!
//! A frame that does not name us yet is an introduction ([`Heard::Stranger`]): no sign of life, but we name its sender
//! from then on unless we have a peer, and its next heartbeat names us. What is left to an attacker on the wire is to hold
//! frames back and deliver each of them once, later: a dead peer seems to live for as long as they last.
//!
//! A keyed frame also carries a *note*: 64 bits with which the program that uses the pair tells its peer whatever it likes,
//! for example a digest of what it knows.
//!
//! ```text
//!  0      1     2         18        34            42        50         82
//!  | state | role | from     | to       | counter    | note   | MAC      |   state '1'..'4', role 'P' or 'B', counter and
//!                                                     note big-endian, to: zeros for nobody, MAC: HMAC-SHA256
//! ```

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::fsm::{Role, State};

const BODY_LEN: usize = 50;
const MAC_LEN: usize = 32;
const FRAME_LEN: usize = BODY_LEN + MAC_LEN;

/// Stands before the body under the MAC, so that nothing else signed with the same key passes for a heartbeat.
const LABEL: &[u8] = b"binary-star heartbeat 2\n";

/// A secret that both sides share.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

/// Why bytes are no [`Key`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No bytes at all: anybody would know them.
    #[error("the key is empty")]
    Empty,
}

impl Key {
    /// Takes the bytes as they are, of any length but 0. A file's last line feed is for the caller to remove.
    pub fn new(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.is_empty() {
            return Err(KeyError::Empty);
        }
        Hmac::new_from_slice(bytes).map(Key).map_err(|_| KeyError::Empty)
    }

    fn over(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        parts.iter().for_each(|part| mac.update(part));
        mac
    }
}

impl core::fmt::Debug for Key {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// The HMAC-SHA256 of `payload`: the second frame of a voter's reply. It says who wrote the reply, not when; a reply
/// that may be recorded carries a number of its own that only grows.
pub fn sign(key: &Key, payload: &[u8]) -> [u8; MAC_LEN] {
    key.over(&[payload]).finalize().into_bytes().into()
}

/// Whether `mac` is the one that [`sign`] gives, compared in constant time.
pub fn verify(key: &Key, payload: &[u8], mac: &[u8]) -> bool {
    key.over(&[payload]).verify_slice(mac).is_ok()
}

/// One start of one process: 16 random bytes, not all zero, drawn by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance(pub [u8; 16]);

/// What an acceptable frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// The peer lives and is in this state.
    Peer(State),
    /// Somebody who knows the key, but is not the peer: one that has not heard us yet, a recording of one, or another
    /// instance than the one that we hear. No sign of life.
    Stranger,
}

/// Why a frame was dropped. None of these is a sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum HeartbeatError {
    /// Not a heartbeat of either form.
    #[error("no heartbeat")]
    Junk,
    /// Shorter than a keyed heartbeat.
    #[error("cut short")]
    Truncated,
    /// The guide's plain form, while we have a key: the peer lacks `key_file`.
    #[error("plain, but a key is required")]
    Plain,
    /// A keyed heartbeat, while we have no key.
    #[error("keyed, but no key is configured")]
    Keyed,
    /// The MAC does not fit: another key, or forged.
    #[error("wrong MAC")]
    Forged,
    /// Our own role: our own frames came back, or both sides were started with the same role.
    #[error("comes from our own role")]
    OwnRole,
    /// The counter did not grow.
    #[error("heard before")]
    Replayed,
}

/// Writes our heartbeats and reads the peer's.
#[derive(Debug, Clone)]
pub struct Wire(Option<Keyed>);

#[derive(Debug, Clone)]
struct Keyed {
    key: Key,
    role: Role,
    instance: Instance,
    sent: u64,
    /// What we say in each heartbeat.
    note: u64,
    partner: Partner,
    /// The highest counter of each instance that has named us; grows by one with each real restart of the peer, for nobody
    /// else passes the MAC.
    counters: BTreeMap<Instance, u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Partner {
    Nobody,
    /// Introduced itself; only the MAC speaks for it.
    Seen(Instance),
    /// Has named us.
    Known {
        instance: Instance,
        /// What it said last.
        note: u64,
        /// Not heard for so long that another one may take its place.
        silent: bool,
    },
}

impl Wire {
    /// The guide's heartbeats: anybody who reaches the socket is believed.
    pub fn plain() -> Self {
        Wire(None)
    }

    /// Heartbeats with a MAC, for one life of a process.
    pub fn keyed(key: Key, role: Role, instance: Instance) -> Self {
        let (partner, counters) = (Partner::Nobody, BTreeMap::new());
        Wire(Some(Keyed { key, role, instance, sent: 0, note: 0, partner, counters }))
    }

    /// From now on our heartbeats carry this note, 0 until the first call; true if it is another one than before. The guide's
    /// heartbeats have no room for one.
    pub fn say(&mut self, note: u64) -> bool {
        match &mut self.0 {
            None => false,
            Some(keyed) => core::mem::replace(&mut keyed.note, note) != note,
        }
    }

    /// The note in the last heartbeat of the peer that was accepted as its own.
    pub fn said(&self) -> Option<u64> {
        match self.0.as_ref()?.partner {
            Partner::Known { note, .. } => Some(note),
            Partner::Nobody | Partner::Seen(_) => None,
        }
    }

    /// The next heartbeat. Never twice the same frame when keyed.
    pub fn encode(&mut self, state: State) -> Vec<u8> {
        match &mut self.0 {
            None => alloc::vec![digit(state)],
            Some(keyed) => keyed.encode(state),
        }
    }

    /// Reads one frame, and remembers of it what the next one is compared with.
    pub fn decode(&mut self, frame: &[u8]) -> Result<Heard, HeartbeatError> {
        match &mut self.0 {
            None => plain(frame).map(Heard::Peer),
            Some(keyed) => keyed.decode(frame),
        }
    }

    /// The peer was not heard until it expired: another instance may take its place. Ends with its next heartbeat.
    pub fn handle_silence(&mut self) {
        if let Some(Keyed { partner: Partner::Known { silent, .. }, .. }) = &mut self.0 {
            *silent = true;
        }
    }

    /// The instance that our heartbeats name. When it changes, a heartbeat sent at once spares both sides a wait.
    pub fn partner(&self) -> Option<Instance> {
        self.0.as_ref().and_then(|keyed| keyed.partner.instance())
    }
}

fn digit(state: State) -> u8 {
    b'0' + state.number()
}

fn state(digit: u8) -> Option<State> {
    digit.checked_sub(b'0').and_then(State::from_number)
}

fn plain(frame: &[u8]) -> Result<State, HeartbeatError> {
    match *frame {
        [one] => state(one).ok_or(HeartbeatError::Junk),
        _ if frame.len() == FRAME_LEN => Err(HeartbeatError::Keyed),
        _ => Err(HeartbeatError::Junk),
    }
}

impl Partner {
    fn instance(self) -> Option<Instance> {
        match self {
            Partner::Nobody => None,
            Partner::Seen(instance) | Partner::Known { instance, .. } => Some(instance),
        }
    }
}

impl Keyed {
    fn encode(&mut self, state: State) -> Vec<u8> {
        self.sent += 1;
        let to = self.partner.instance().map_or([0; 16], |instance| instance.0);
        let mut frame = Vec::with_capacity(FRAME_LEN);
        frame.extend([digit(state), letter(self.role)]);
        frame.extend(self.instance.0);
        frame.extend(to);
        frame.extend(self.sent.to_be_bytes());
        frame.extend(self.note.to_be_bytes());
        let mac = self.key.over(&[LABEL, &frame]).finalize().into_bytes();
        frame.extend(mac);
        frame
    }

    fn decode(&mut self, frame: &[u8]) -> Result<Heard, HeartbeatError> {
        let body = self.authentic(frame)?;
        if body.role == letter(self.role) || body.from == self.instance {
            return Err(HeartbeatError::OwnRole);
        }
        if body.to != self.instance {
            // Whom we know already is not displaced by somebody who does not know us.
            if !matches!(self.partner, Partner::Known { .. }) {
                self.partner = Partner::Seen(body.from);
            }
            return Ok(Heard::Stranger);
        }
        let highest = self.counters.entry(body.from).or_insert(0);
        if body.counter <= *highest {
            return Err(HeartbeatError::Replayed);
        }
        *highest = body.counter;
        if let Partner::Known { instance, silent: false, .. } = self.partner
            && instance != body.from
        {
            return Ok(Heard::Stranger);
        }
        self.partner = Partner::Known { instance: body.from, note: body.note, silent: false };
        Ok(Heard::Peer(body.state))
    }

    /// The parts of a frame whose MAC is right. Nothing in the frame is looked at before.
    fn authentic(&self, frame: &[u8]) -> Result<Body, HeartbeatError> {
        match frame.len() {
            FRAME_LEN => {}
            1 if plain(frame).is_ok() => return Err(HeartbeatError::Plain),
            2..FRAME_LEN => return Err(HeartbeatError::Truncated),
            _ => return Err(HeartbeatError::Junk),
        }
        let (body, mac) = frame.split_at(BODY_LEN);
        self.key.over(&[LABEL, body]).verify_slice(mac).map_err(|_| HeartbeatError::Forged)?;
        Body::parse(body).ok_or(HeartbeatError::Junk)
    }
}

struct Body {
    state: State,
    role: u8,
    from: Instance,
    to: Instance,
    counter: u64,
    note: u64,
}

impl Body {
    fn parse(body: &[u8]) -> Option<Self> {
        let (head, rest) = body.split_first_chunk::<2>()?;
        let (from, rest) = rest.split_first_chunk::<16>()?;
        let (to, rest) = rest.split_first_chunk::<16>()?;
        let (counter, note) = rest.split_first_chunk::<8>()?;
        Some(Body {
            state: state(head[0])?,
            role: head[1],
            from: Instance(*from),
            to: Instance(*to),
            counter: u64::from_be_bytes(*counter),
            note: u64::from_be_bytes(note.try_into().ok()?),
        })
    }
}

fn letter(role: Role) -> u8 {
    match role {
        Role::Primary => b'P',
        Role::Backup => b'B',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"forty-two";

    fn side(role: Role, instance: u8) -> Wire {
        Wire::keyed(Key::new(SECRET).unwrap(), role, Instance([instance; 16]))
    }

    /// A pair that has met, and the frames that it took, oldest first: (from primary, from backup).
    fn met(primary: u8, backup: u8) -> (Wire, Wire, Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let (mut a, mut b) = (side(Role::Primary, primary), side(Role::Backup, backup));
        let (mut from_a, mut from_b) = (Vec::new(), Vec::new());
        from_a.push(a.encode(State::Primary));
        assert_eq!(b.decode(&from_a[0]), Ok(Heard::Stranger));
        from_b.push(b.encode(State::Backup));
        assert_eq!(a.decode(&from_b[0]), Ok(Heard::Peer(State::Backup)));
        from_a.push(a.encode(State::Active));
        assert_eq!(b.decode(&from_a[1]), Ok(Heard::Peer(State::Active)));
        (a, b, from_a, from_b)
    }

    #[test]
    fn plain_is_one_decimal_digit() {
        let mut wire = Wire::plain();
        for (state, frame) in State::ALL.into_iter().zip([b"1", b"2", b"3", b"4"]) {
            assert_eq!(wire.encode(state), frame);
            assert_eq!(wire.decode(frame), Ok(Heard::Peer(state)));
        }
        for junk in [&b""[..], b"0", b"5", b"12", b"1\0", b"\x01", b" 1", b"ACTIVE", &[0xff; 4096]] {
            assert_eq!(wire.decode(junk), Err(HeartbeatError::Junk), "{junk:?}");
        }
        assert_eq!(wire.decode(&side(Role::Backup, 9).encode(State::Active)), Err(HeartbeatError::Keyed));
    }

    #[test]
    fn a_note_is_the_peers_last_word() {
        let (mut a, mut b, ..) = met(1, 2);
        assert_eq!((a.said(), b.said()), (Some(0), Some(0)));
        assert!(a.say(u64::MAX - 1) && !a.say(u64::MAX - 1), "it tells whether it is a new one");
        let (first, second) = (a.encode(State::Active), {
            a.say(7);
            a.encode(State::Active)
        });
        assert_eq!((b.decode(&first), b.said()), (Ok(Heard::Peer(State::Active)), Some(u64::MAX - 1)));
        assert_eq!((b.decode(&second), b.said()), (Ok(Heard::Peer(State::Active)), Some(7)));
        assert_eq!((b.decode(&first), b.said()), (Err(HeartbeatError::Replayed), Some(7)));
        let mut again = side(Role::Primary, 3);
        again.say(9);
        assert_eq!((b.decode(&again.encode(State::Primary)), b.said()), (Ok(Heard::Stranger), Some(7)));

        let (mut plain, mut other) = (Wire::plain(), Wire::plain());
        assert!(!plain.say(7));
        assert_eq!(plain.encode(State::Active), b"3", "the guide's heartbeat has no room");
        assert_eq!((other.decode(b"3"), other.said()), (Ok(Heard::Peer(State::Active)), None));
    }

    #[test]
    fn a_pair_meets_in_three_frames_and_goes_on() {
        let (mut a, mut b, ..) = met(1, 2);
        for state in State::ALL {
            assert_eq!(b.decode(&a.encode(state)), Ok(Heard::Peer(state)));
            assert_eq!(a.decode(&b.encode(state)), Ok(Heard::Peer(state)));
        }
        assert_eq!((a.partner(), b.partner()), (Some(Instance([2; 16])), Some(Instance([1; 16]))));
    }

    #[test]
    fn either_side_may_restart_and_is_heard_again() {
        let (mut a, ..) = met(1, 2);
        let mut b = side(Role::Backup, 3);
        assert_eq!(b.decode(&a.encode(State::Active)), Ok(Heard::Stranger));
        assert_eq!(a.decode(&b.encode(State::Backup)), Ok(Heard::Stranger), "the old one was heard just now");
        a.handle_silence();
        assert_eq!(a.decode(&b.encode(State::Backup)), Ok(Heard::Peer(State::Backup)));
        assert_eq!(b.decode(&a.encode(State::Active)), Ok(Heard::Peer(State::Active)));
        let mut a = side(Role::Primary, 4);
        assert_eq!(a.decode(&b.encode(State::Passive)), Ok(Heard::Stranger));
        b.handle_silence();
        assert_eq!(b.decode(&a.encode(State::Primary)), Ok(Heard::Peer(State::Primary)));
        assert_eq!(a.decode(&b.encode(State::Active)), Ok(Heard::Peer(State::Active)));
    }

    #[test]
    fn a_lost_frame_is_no_obstacle() {
        let (mut a, mut b, ..) = met(1, 2);
        for _ in 0..5 {
            a.encode(State::Active);
        }
        assert_eq!(b.decode(&a.encode(State::Active)), Ok(Heard::Peer(State::Active)));
    }

    #[test]
    fn every_flipped_bit_is_a_forgery() {
        let (mut a, mut b, ..) = met(1, 2);
        let frame = a.encode(State::Active);
        for bit in 0..frame.len() * 8 {
            let mut forged = frame.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(b.decode(&forged), Err(HeartbeatError::Forged), "bit {bit}");
        }
        assert_eq!(b.decode(&frame), Ok(Heard::Peer(State::Active)));
    }

    #[test]
    fn another_key_is_a_forgery() {
        let (_, mut b, ..) = met(1, 2);
        let mut other = Wire::keyed(Key::new(b"forty-three").unwrap(), Role::Primary, Instance([1; 16]));
        assert_eq!(b.decode(&other.encode(State::Active)), Err(HeartbeatError::Forged));
    }

    #[test]
    fn truncated_long_and_plain_frames_are_refused() {
        let (mut a, mut b, ..) = met(1, 2);
        let frame = a.encode(State::Active);
        for len in 2..frame.len() {
            assert_eq!(b.decode(&frame[..len]), Err(HeartbeatError::Truncated), "{len} bytes");
        }
        let long = [&frame[..], b"x"].concat();
        for junk in [&long[..], b"", b"9", &[0; 5000]] {
            assert_eq!(b.decode(junk), Err(HeartbeatError::Junk));
        }
        for state in [b"1", b"2", b"3", b"4"] {
            assert_eq!(b.decode(state), Err(HeartbeatError::Plain));
        }
    }

    #[test]
    fn nothing_is_heard_twice() {
        let (mut a, mut b, from_a, from_b) = met(1, 2);
        // The first frame did not name b: it can be replayed, and says nothing.
        assert_eq!(b.decode(&from_a[0]), Ok(Heard::Stranger));
        assert_eq!(b.decode(&from_a[1]), Err(HeartbeatError::Replayed));
        assert_eq!(a.decode(&from_b[0]), Err(HeartbeatError::Replayed));
        // Overtaken by a newer one.
        let (first, second) = (a.encode(State::Active), a.encode(State::Active));
        assert_eq!(b.decode(&second), Ok(Heard::Peer(State::Active)));
        assert_eq!(b.decode(&first), Err(HeartbeatError::Replayed));
    }

    #[test]
    fn a_dead_peers_frames_do_not_bring_it_back() {
        let (mut a, mut b, from_a, _) = met(1, 2);
        let unheard = a.encode(State::Active);
        // a restarts as instance 3, and b hears it once instance 1 is silent.
        let mut a = side(Role::Primary, 3);
        assert_eq!(a.decode(&b.encode(State::Passive)), Ok(Heard::Stranger));
        b.handle_silence();
        assert_eq!(b.decode(&a.encode(State::Primary)), Ok(Heard::Peer(State::Primary)));
        // What was heard of instance 1 is over, and what was not is no sign of life.
        assert_eq!(b.decode(&unheard), Ok(Heard::Stranger));
        assert_eq!(b.decode(&unheard), Err(HeartbeatError::Replayed));
        assert_eq!(b.decode(&from_a[0]), Ok(Heard::Stranger));
        assert_eq!(b.decode(&from_a[1]), Err(HeartbeatError::Replayed));
        assert_eq!(b.partner(), Some(Instance([3; 16])));
        assert_eq!(b.decode(&a.encode(State::Active)), Ok(Heard::Peer(State::Active)));
    }

    /// The peer dies unheard and its successor is heard; then what the dead one had sent arrives.
    #[test]
    fn a_frame_of_the_dead_does_not_shut_out_its_living_successor() {
        let (mut dead, mut b) = (side(Role::Primary, 1), side(Role::Backup, 2));
        assert_eq!(dead.decode(&b.encode(State::Backup)), Ok(Heard::Stranger));
        let late: Vec<_> = (0..3).map(|_| dead.encode(State::Active)).collect();
        let mut living = side(Role::Primary, 3);
        assert_eq!(living.decode(&b.encode(State::Backup)), Ok(Heard::Stranger));
        assert_eq!(b.decode(&living.encode(State::Passive)), Ok(Heard::Peer(State::Passive)));
        for frame in &late {
            assert_eq!(b.decode(frame), Ok(Heard::Stranger), "and no sign of life");
            assert_eq!(b.decode(&living.encode(State::Passive)), Ok(Heard::Peer(State::Passive)));
            assert_eq!(b.decode(frame), Err(HeartbeatError::Replayed));
        }
        assert_eq!(b.partner(), Some(Instance([3; 16])));
    }

    /// The same while the living one happens not to be heard: it is back once the dead one is silent.
    #[test]
    fn nobody_is_shut_out_for_good() {
        let (mut dead, mut b) = (side(Role::Primary, 1), side(Role::Backup, 2));
        assert_eq!(dead.decode(&b.encode(State::Backup)), Ok(Heard::Stranger));
        let late: Vec<_> = (0..3).map(|_| dead.encode(State::Active)).collect();
        let mut living = side(Role::Primary, 3);
        assert_eq!(living.decode(&b.encode(State::Backup)), Ok(Heard::Stranger));
        assert_eq!(b.decode(&living.encode(State::Passive)), Ok(Heard::Peer(State::Passive)));
        for frame in &late {
            b.handle_silence();
            assert_eq!(b.decode(frame), Ok(Heard::Peer(State::Active)), "it cannot be told apart");
            assert_eq!(b.decode(&living.encode(State::Passive)), Ok(Heard::Stranger));
            b.handle_silence();
            assert_eq!(b.decode(&living.encode(State::Passive)), Ok(Heard::Peer(State::Passive)));
        }
        for frame in &late {
            b.handle_silence();
            assert_eq!(b.decode(frame), Err(HeartbeatError::Replayed), "each of them once");
        }
        assert_eq!(b.decode(&living.encode(State::Passive)), Ok(Heard::Peer(State::Passive)));
    }

    #[test]
    fn a_recording_from_before_our_start_is_no_sign_of_life() {
        let (_, _, from_a, _) = met(1, 2);
        let mut restarted = side(Role::Backup, 5);
        for frame in from_a.iter().chain(&from_a) {
            assert_eq!(restarted.decode(frame), Ok(Heard::Stranger));
        }
        // And it does not keep the living peer out.
        let mut a = side(Role::Primary, 6);
        assert_eq!(a.decode(&restarted.encode(State::Backup)), Ok(Heard::Stranger));
        assert_eq!(restarted.decode(&a.encode(State::Primary)), Ok(Heard::Peer(State::Primary)));
        assert_eq!(restarted.decode(&from_a[1]), Ok(Heard::Stranger));
        assert_eq!(a.decode(&restarted.encode(State::Backup)), Ok(Heard::Peer(State::Backup)));
    }

    #[test]
    fn our_own_frames_do_not_speak_for_the_peer() {
        let (mut a, mut b, from_a, from_b) = met(1, 2);
        assert_eq!(a.decode(&from_a[1]), Err(HeartbeatError::OwnRole));
        assert_eq!(b.decode(&from_b[0]), Err(HeartbeatError::OwnRole));
        assert_eq!(side(Role::Primary, 7).decode(&a.encode(State::Active)), Err(HeartbeatError::OwnRole));
        assert_eq!(side(Role::Backup, 8).decode(&b.encode(State::Active)), Err(HeartbeatError::OwnRole));
    }

    #[test]
    fn a_flood_of_forgeries_changes_nothing() {
        let (mut a, mut b, ..) = met(1, 2);
        let before = b.partner();
        for n in 0..10_000_u32 {
            let mut forged = alloc::vec![b'3'; FRAME_LEN];
            forged[..4].copy_from_slice(&n.to_le_bytes());
            assert_eq!(b.decode(&forged), Err(HeartbeatError::Forged));
        }
        assert_eq!(b.partner(), before);
        assert_eq!(b.decode(&a.encode(State::Active)), Ok(Heard::Peer(State::Active)));
    }

    #[test]
    fn a_key_is_not_empty_and_not_printed() {
        assert_eq!(Key::new(b"").map(|_| ()), Err(KeyError::Empty));
        assert_eq!(alloc::format!("{:?}", Key::new(SECRET).unwrap()), "Key(..)");
    }

    #[test]
    fn the_voters_mac_is_plain_hmac_sha256() {
        // Test case 2 of RFC 4231.
        let key = Key::new(b"Jefe").unwrap();
        let mac = sign(&key, b"what do ya want for nothing?");
        let hex: alloc::string::String = mac.iter().map(|byte| alloc::format!("{byte:02x}")).collect();
        assert_eq!(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        assert!(verify(&key, b"what do ya want for nothing?", &mac));
        assert!(!verify(&key, b"what do ya want for nothing!", &mac));
        assert!(!verify(&key, b"what do ya want for nothing?", &mac[..31]));
    }
}
