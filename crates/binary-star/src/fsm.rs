//! The state machine: what one side of the pair becomes when something happens.
//!
//! Two dialects share the states and the events. [`Dialect::Guide`] is the `bstar` class of the ZeroMQ guide: only
//! a vote makes a standby active. [`Dialect::PeerDead`] acts on the peer's silence alone. Both tables are total and
//! have no wildcard arm, so a new state does not compile before every case has been thought about.

use Event::{ClientRequest, PeerActive, PeerBackup, PeerDead, PeerPassive, PeerPrimary};
use State::{Active, Backup, Passive, Primary};

/// What one side is; the numbers are those on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Started as primary, has not heard its peer yet.
    Primary = 1,
    /// Started as backup, has not heard its peer yet.
    Backup = 2,
    /// Does the work.
    Active = 3,
    /// Stands by.
    Passive = 4,
}

impl State {
    /// All states, in the order of their numbers.
    pub const ALL: [Self; 4] = [Primary, Backup, Active, Passive];

    /// The number on the wire, 1 to 4.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The state with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.number() == number)
    }
}

impl core::fmt::Display for State {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Primary => "PRIMARY",
            Backup => "BACKUP",
            Active => "ACTIVE",
            Passive => "PASSIVE",
        })
    }
}

/// What may happen to one side; the first five numbers are the guide's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// The peer says that it is PRIMARY.
    PeerPrimary = 1,
    /// The peer says that it is BACKUP.
    PeerBackup = 2,
    /// The peer says that it is ACTIVE.
    PeerActive = 3,
    /// The peer says that it is PASSIVE.
    PeerPassive = 4,
    /// A client asks for service: the guide's vote.
    ClientRequest = 5,
    /// The peer has just expired. The guide does not know this event; there it changes nothing.
    PeerDead = 6,
}

impl Event {
    /// All events, in the order of their numbers.
    pub const ALL: [Self; 6] = [PeerPrimary, PeerBackup, PeerActive, PeerPassive, ClientRequest, PeerDead];
}

impl From<State> for Event {
    /// The event of hearing a peer in this state.
    fn from(peer: State) -> Self {
        match peer {
            Primary => PeerPrimary,
            Backup => PeerBackup,
            Active => PeerActive,
            Passive => PeerPassive,
        }
    }
}

/// Which of the two sides this one was started as. It never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The side that becomes active when both start.
    Primary,
    /// The other one.
    Backup,
}

impl Role {
    /// The state in which this role begins.
    pub fn first_state(self) -> State {
        match self {
            Role::Primary => Primary,
            Role::Backup => Backup,
        }
    }
}

/// Which table applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dialect {
    /// The guide's `bstar` class; the peer expires after two heartbeats.
    Guide,
    /// The peer's death is an event of its own; the peer expires after three heartbeats.
    PeerDead,
}

impl Dialect {
    /// After how many heartbeats of silence the peer counts as expired.
    pub fn expiry_beats(self) -> u32 {
        match self {
            Dialect::Guide => 2,
            Dialect::PeerDead => 3,
        }
    }
}

/// Whether the peer's expiry has passed; it decides only what a [`Event::ClientRequest`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Heard within the expiry.
    Alive,
    /// Silent for longer than that.
    Expired,
}

/// An event that this state does not accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Refusal {
    /// Both sides work. The guide ends the process; with a lead elsewhere, the one without it steps back.
    #[error("both sides are ACTIVE")]
    DualActive,
    /// Both sides stand by. The guide ends the process; with a lead elsewhere, whoever wins it works.
    #[error("both sides are PASSIVE")]
    DualPassive,
    /// The request is not for this side: drop it unanswered, the client turns to the other side.
    #[error("not ACTIVE, and the peer may be")]
    NotActive,
}

/// The state after `event`; the same state where nothing changes. `role` decides one case only: who steps back when
/// both are ACTIVE in the peer-dead dialect.
pub fn step(dialect: Dialect, role: Role, state: State, event: Event, peer: Peer) -> Result<State, Refusal> {
    match dialect {
        Dialect::Guide => guide(state, event, peer),
        Dialect::PeerDead => peer_dead(role, state, event),
    }
}

fn guide(state: State, event: Event, peer: Peer) -> Result<State, Refusal> {
    match (state, event) {
        // A peer that restarts cannot have been working; it will hear us and stand by.
        (Primary, PeerBackup) | (Passive, PeerPrimary | PeerBackup) => Ok(Active),
        (Primary | Backup, PeerActive) => Ok(Passive),
        (Active, PeerActive) => Err(Refusal::DualActive),
        (Passive, PeerPassive) => Err(Refusal::DualPassive),
        (Active, ClientRequest) => Ok(Active),
        (Primary | Passive, ClientRequest) => match peer {
            Peer::Expired => Ok(Active),
            Peer::Alive => Err(Refusal::NotActive),
        },
        // A backup that never saw the primary cannot tell a dead primary from a link that is not up yet.
        (Backup, ClientRequest) => Err(Refusal::NotActive),
        (Primary, PeerPrimary | PeerPassive | PeerDead)
        | (Backup | Active, PeerPrimary | PeerBackup | PeerPassive | PeerDead)
        | (Passive, PeerActive | PeerDead) => Ok(state),
    }
}

fn peer_dead(role: Role, state: State, event: Event) -> Result<State, Refusal> {
    match (state, event) {
        (Primary, PeerBackup | PeerDead) | (Backup, PeerPassive | PeerDead) | (Passive, PeerDead) => {
            Ok(Active)
        }
        (Primary | Backup, PeerActive) => Ok(Passive),
        (Active, PeerActive) => match role {
            Role::Backup => Ok(Passive),
            Role::Primary => Ok(Active),
        },
        (Active, ClientRequest) => Ok(Active),
        (Primary | Backup | Passive, ClientRequest) => Err(Refusal::NotActive),
        (Primary, PeerPrimary | PeerPassive)
        | (Backup, PeerPrimary | PeerBackup)
        | (Active, PeerPrimary | PeerBackup | PeerPassive | PeerDead)
        | (Passive, PeerPrimary | PeerBackup | PeerActive | PeerPassive) => Ok(state),
    }
}

/// What a witness outside the pair says about who may work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lead {
    /// This side holds the lead.
    Won,
    /// Another one holds it.
    Lost,
}

/// The state once the lead is known. It settles what the pair alone cannot: two ACTIVE, two PASSIVE, and a BACKUP
/// that never heard anybody.
pub fn settled_by_lead(state: State, lead: Lead) -> State {
    match (state, lead) {
        (Primary | Backup | Active | Passive, Lead::Won) => Active,
        (Active, Lead::Lost) => Passive,
        (Primary | Backup | Passive, Lead::Lost) => state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACT: Result<State, Refusal> = Ok(Active);
    const PAS: Result<State, Refusal> = Ok(Passive);
    const PRI: Result<State, Refusal> = Ok(Primary);
    const BAC: Result<State, Refusal> = Ok(Backup);
    const NOT: Result<State, Refusal> = Err(Refusal::NotActive);
    const TWO_ACT: Result<State, Refusal> = Err(Refusal::DualActive);
    const TWO_PAS: Result<State, Refusal> = Err(Refusal::DualPassive);

    /// State, event, result while the peer is alive, result once it is expired.
    type Row = (State, Event, Result<State, Refusal>, Result<State, Refusal>);

    const GUIDE: [Row; 24] = [
        (Primary, PeerPrimary, PRI, PRI),
        (Primary, PeerBackup, ACT, ACT),
        (Primary, PeerActive, PAS, PAS),
        (Primary, PeerPassive, PRI, PRI),
        (Primary, ClientRequest, NOT, ACT),
        (Primary, PeerDead, PRI, PRI),
        (Backup, PeerPrimary, BAC, BAC),
        (Backup, PeerBackup, BAC, BAC),
        (Backup, PeerActive, PAS, PAS),
        (Backup, PeerPassive, BAC, BAC),
        (Backup, ClientRequest, NOT, NOT),
        (Backup, PeerDead, BAC, BAC),
        (Active, PeerPrimary, ACT, ACT),
        (Active, PeerBackup, ACT, ACT),
        (Active, PeerActive, TWO_ACT, TWO_ACT),
        (Active, PeerPassive, ACT, ACT),
        (Active, ClientRequest, ACT, ACT),
        (Active, PeerDead, ACT, ACT),
        (Passive, PeerPrimary, ACT, ACT),
        (Passive, PeerBackup, ACT, ACT),
        (Passive, PeerActive, PAS, PAS),
        (Passive, PeerPassive, TWO_PAS, TWO_PAS),
        (Passive, ClientRequest, NOT, ACT),
        (Passive, PeerDead, PAS, PAS),
    ];

    /// State, event, result for the primary, result for the backup; the peer's expiry makes no difference.
    const PEER_DEAD: [Row; 24] = [
        (Primary, PeerPrimary, PRI, PRI),
        (Primary, PeerBackup, ACT, ACT),
        (Primary, PeerActive, PAS, PAS),
        (Primary, PeerPassive, PRI, PRI),
        (Primary, ClientRequest, NOT, NOT),
        (Primary, PeerDead, ACT, ACT),
        (Backup, PeerPrimary, BAC, BAC),
        (Backup, PeerBackup, BAC, BAC),
        (Backup, PeerActive, PAS, PAS),
        (Backup, PeerPassive, ACT, ACT),
        (Backup, ClientRequest, NOT, NOT),
        (Backup, PeerDead, ACT, ACT),
        (Active, PeerPrimary, ACT, ACT),
        (Active, PeerBackup, ACT, ACT),
        (Active, PeerActive, ACT, PAS),
        (Active, PeerPassive, ACT, ACT),
        (Active, ClientRequest, ACT, ACT),
        (Active, PeerDead, ACT, ACT),
        (Passive, PeerPrimary, PAS, PAS),
        (Passive, PeerBackup, PAS, PAS),
        (Passive, PeerActive, PAS, PAS),
        (Passive, PeerPassive, PAS, PAS),
        (Passive, ClientRequest, NOT, NOT),
        (Passive, PeerDead, ACT, ACT),
    ];

    /// Every state with every event, once each.
    fn is_total(rows: &[Row]) -> bool {
        let pairs = State::ALL.into_iter().flat_map(|state| Event::ALL.map(|event| (state, event)));
        pairs.eq(rows.iter().map(|row| (row.0, row.1)))
    }

    #[test]
    fn the_guides_table() {
        assert!(is_total(&GUIDE));
        for (state, event, alive, expired) in GUIDE {
            for role in [Role::Primary, Role::Backup] {
                let step = |peer| step(Dialect::Guide, role, state, event, peer);
                assert_eq!(step(Peer::Alive), alive, "{state} + {event:?}, peer alive");
                assert_eq!(step(Peer::Expired), expired, "{state} + {event:?}, peer expired");
            }
        }
    }

    #[test]
    fn the_peer_dead_table() {
        assert!(is_total(&PEER_DEAD));
        for (state, event, primary, backup) in PEER_DEAD {
            for peer in [Peer::Alive, Peer::Expired] {
                let step = |role| step(Dialect::PeerDead, role, state, event, peer);
                assert_eq!(step(Role::Primary), primary, "{state} + {event:?} as primary, {peer:?}");
                assert_eq!(step(Role::Backup), backup, "{state} + {event:?} as backup, {peer:?}");
            }
        }
    }

    #[test]
    fn the_lead_settles_every_state() {
        let rows = [
            (Primary, Active, Primary),
            (Backup, Active, Backup),
            (Active, Active, Passive),
            (Passive, Active, Passive),
        ];
        for (state, won, lost) in rows {
            assert_eq!(settled_by_lead(state, Lead::Won), won);
            assert_eq!(settled_by_lead(state, Lead::Lost), lost);
        }
    }

    #[test]
    fn numbers_are_the_published_ones() {
        assert_eq!(State::ALL.map(State::number), [1, 2, 3, 4]);
        assert_eq!(Event::ALL.map(|event| event as u8), [1, 2, 3, 4, 5, 6]);
        for state in State::ALL {
            assert_eq!(State::from_number(state.number()), Some(state));
            assert_eq!(Event::from(state) as u8, state.number());
        }
        assert_eq!(State::from_number(0), None);
        assert_eq!(State::from_number(5), None);
    }
}
