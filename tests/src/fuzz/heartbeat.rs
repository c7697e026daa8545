//! Heartbeats: plain ones are one digit and nothing else; keyed ones are believed once each, by the process that they
//! name, whatever somebody on the wire does who has no key.

use std::collections::BTreeSet;

use binary_star::{Heard, HeartbeatError, Instance, Key, Role, State, Wire, sign, verify};

use super::Dice;

/// More does nothing new.
const STEPS_MAX: usize = 200;

/// The bytes as a frame, and as the deeds of somebody on the wire.
pub fn check(data: &[u8]) {
    plain(data);
    forged(data);
    Pair::new().play(&mut Dice(data));
}

fn plain(frame: &[u8]) {
    match Wire::plain().decode(frame) {
        Ok(Heard::Peer(state)) => assert_eq!(Wire::plain().encode(state), frame),
        Ok(Heard::Stranger) => panic!("without a key nobody is a stranger"),
        Err(_) => assert!(!matches!(frame, [b'1'..=b'4']), "refused"),
    }
}

fn key() -> Key {
    Key::new(b"nobody guesses this one").expect("not empty")
}

/// No bytes that were not made with the key are taken, and none are taken for a voter's reply.
fn forged(data: &[u8]) {
    let heard = Wire::keyed(key(), Role::Primary, Instance([1; 16])).decode(data);
    assert!(heard.is_err(), "{heard:?}");
    let (payload, mac) = data.split_at(data.len() / 2);
    assert_eq!(verify(&key(), payload, mac), sign(&key(), payload) == mac);
}

/// A heartbeat that one of the two really sent.
struct Frame {
    bytes: Vec<u8>,
    role: Role,
    state: State,
    from: Instance,
    to: Option<Instance>,
    note: u64,
}

struct Side {
    wire: Wire,
    role: Role,
    instance: Instance,
    believed: BTreeSet<Vec<u8>>,
    /// What it says, and no heartbeat before it said.
    notes: u64,
}

impl Side {
    fn start(role: Role, number: u8) -> Self {
        let instance = Instance([number; 16]);
        Self { wire: Wire::keyed(key(), role, instance), role, instance, believed: BTreeSet::new(), notes: 0 }
    }

    fn send(&mut self, state: State) -> Frame {
        let to = self.wire.partner();
        self.notes += 1;
        self.wire.say(self.notes);
        let (note, bytes) = (self.notes, self.wire.encode(state));
        Frame { bytes, role: self.role, state, from: self.instance, to, note }
    }

    fn hear(&mut self, frame: &Frame) -> Result<Heard, HeartbeatError> {
        let before = self.wire.said();
        let heard = self.wire.decode(&frame.bytes);
        if !matches!(heard, Ok(Heard::Peer(_))) {
            assert_eq!(self.wire.said(), before, "what was not believed says nothing");
        }
        match heard {
            Ok(Heard::Peer(state)) => {
                assert_eq!((state, frame.to), (frame.state, Some(self.instance)));
                assert_ne!(frame.role, self.role);
                assert_eq!((self.wire.partner(), self.wire.said()), (Some(frame.from), Some(frame.note)));
                assert!(self.believed.insert(frame.bytes.clone()), "believed twice");
            }
            Ok(Heard::Stranger) => {
                let other = self.wire.partner() != Some(frame.from);
                assert!(frame.to != Some(self.instance) || other, "the peer, and not believed");
            }
            Err(HeartbeatError::OwnRole) => assert_eq!(frame.role, self.role),
            Err(HeartbeatError::Replayed) => {}
            Err(why) => panic!("a true heartbeat: {why}"),
        }
        heard
    }
}

struct Pair {
    sides: [Side; 2],
    started: u8,
    /// Every heartbeat that was ever sent.
    sent: Vec<Frame>,
}

impl Pair {
    fn new() -> Self {
        let sides = [Side::start(Role::Primary, 1), Side::start(Role::Backup, 2)];
        Self { sides, started: 2, sent: Vec::new() }
    }

    fn play(mut self, dice: &mut Dice<'_>) {
        for _ in 0..STEPS_MAX {
            if dice.is_empty() {
                break;
            }
            self.step(dice);
        }
        // Whatever was kept back, replayed or cut, whoever lives is heard once whoever does not is silent.
        self.sides.iter_mut().for_each(|side| side.wire.handle_silence());
        for _ in 0..3 {
            for (from, to) in [(0, 1), (1, 0)] {
                let frame = self.sides[from].send(State::Active);
                let _ = self.sides[to].hear(&frame);
            }
        }
        for (from, to) in [(0, 1), (1, 0)] {
            let frame = self.sides[from].send(State::Active);
            assert_eq!(self.sides[to].hear(&frame), Ok(Heard::Peer(State::Active)), "deaf for ever");
        }
    }

    fn step(&mut self, dice: &mut Dice<'_>) {
        let deed = dice.byte();
        let side = usize::from(deed & 1);
        match (deed >> 1) % 9 {
            8 => self.silence(side),
            0..=2 => {
                let frame = self.sides[side].send(State::ALL[dice.below(State::ALL.len())]);
                self.sent.push(frame);
            }
            3 | 4 if !self.sent.is_empty() => {
                let frame = &self.sent[dice.below(self.sent.len())];
                let _ = self.sides[side].hear(frame);
            }
            5 if !self.sent.is_empty() => {
                let mut bytes = self.sent[dice.below(self.sent.len())].bytes.clone();
                let at = dice.below(bytes.len());
                bytes[at] ^= dice.byte();
                self.junk(side, &bytes);
            }
            6 if !self.sent.is_empty() => {
                let (one, other) = (dice.below(self.sent.len()), dice.below(self.sent.len()));
                let cut = dice.below(self.sent[one].bytes.len());
                let bytes = [&self.sent[one].bytes[..cut], &self.sent[other].bytes[cut..]].concat();
                self.junk(side, &bytes[dice.below(2)..]);
            }
            7 if self.started < u8::MAX => {
                self.started += 1;
                self.sides[side] = Side::start(self.sides[side].role, self.started);
            }
            _ => {}
        }
    }

    /// One side has not heard its peer for long: the living one, or one that is gone.
    fn silence(&mut self, side: usize) {
        self.sides[side].wire.handle_silence();
    }

    /// What nobody sent is not heard.
    fn junk(&mut self, side: usize, bytes: &[u8]) {
        if self.sent.iter().all(|frame| frame.bytes != bytes) {
            let heard = self.sides[side].wire.decode(bytes);
            assert!(heard.is_err(), "{heard:?}");
        }
    }
}
