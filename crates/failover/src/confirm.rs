//! R3, R9 and R17: what a client may be told about its write.
//!
//! A write is *acknowledged*, *definitely failed* or *indeterminate*; these functions decide which, from what the
//! server said. Whoever sends the commands (the API, a simulation) has no opinion of its own.

use alloc::string::String;
use alloc::vec::Vec;

use topology::{Endpoint, InSync};

/// Whether everything up to an offset is held by all that must hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confirmation {
    /// Every replica in sync has it, and the epoch is still the same.
    Confirmed,
    /// These do not have it, or are not attached. Look again until the deadline.
    Behind(Vec<Endpoint>),
    /// The epoch has ended here: begin again under the next view.
    Fenced,
}

/// R3: is the stream up to `needed` confirmed by every replica in sync?
///
/// `role` and `fence` are what the primary answered *after* the write, in this order: `(ip:port, acknowledged offset)`
/// per attached replica, and the value of the fence key (`None`: missing, which is not zero).
///
/// The number that WAIT returns is no argument on purpose: a stranger counts there, and a replica can count twice.
pub fn confirmed(
    in_sync: &[InSync],
    needed: u64,
    role: &[(String, u64)],
    fence: Option<u64>,
    epoch: u64,
) -> Confirmation {
    if fence != Some(epoch) {
        return Confirmation::Fenced;
    }
    let has_it = |entry: &&InSync| role.iter().any(|(at, offset)| *at == entry.seen_as && *offset >= needed);
    let behind = in_sync.iter().filter(|entry| !has_it(entry)).map(|entry| entry.addr.clone());
    match behind.collect::<Vec<_>>() {
        behind if behind.is_empty() => Confirmation::Confirmed,
        behind => Confirmation::Behind(behind),
    }
}

/// R6: whether a group whose set is this takes writes that every replica in sync is to have. With fewer than
/// `min_in_sync` it does not, which is a definite failure; the set may grow again.
pub fn admits(in_sync: &[InSync], min_in_sync: u32) -> bool {
    u32::try_from(in_sync.len()).unwrap_or(u32::MAX) >= min_in_sync
}

/// What a primary said about itself after a write, on the connection that wrote: `ROLE`, `WAIT`, `ROLE`, `GET fence`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look<'a> {
    /// The stream's offset, by the first ROLE: the write lies at or before it. `None`: the server is a replica.
    pub offset: Option<u64>,
    /// Whether WAIT gave a number. Anything else, such as UNBLOCKED, says that the role changed meanwhile.
    pub waited: bool,
    /// Who is attached and has acknowledged how much, by the second ROLE. `None`: the server is a replica.
    pub replicas: Option<&'a [(String, u64)]>,
    /// The fence key, read last.
    pub fence: Option<u64>,
}

/// What is to be done after a [`Look`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Every replica in sync has it: acknowledge.
    Acknowledge,
    /// Not yet: WAIT for so many replicas, then look again, with the same `needed`.
    WaitFor(usize),
    /// It cannot be confirmed under this epoch, or not here: indeterminate, to be settled (R17). A read that was to
    /// be confirmed is simply asked again.
    Settle,
}

/// R3: whether what was written at or before `needed` may be acknowledged in `epoch`, of which the replicas in sync
/// are these. `needed` is the offset of the *first* look after the write.
///
/// The next WAIT is for one replica more than have it now, and for the whole set at least: a stranger that has it
/// would else answer at once, again and again, for the one that does not.
pub fn judge(in_sync: &[InSync], epoch: u64, needed: u64, look: &Look<'_>) -> Next {
    let (Some(_), true, Some(replicas)) = (look.offset, look.waited, look.replicas) else {
        return Next::Settle;
    };
    match confirmed(in_sync, needed, replicas, look.fence, epoch) {
        Confirmation::Confirmed => Next::Acknowledge,
        Confirmation::Fenced => Next::Settle,
        Confirmation::Behind(_) => {
            let have_it = replicas.iter().filter(|(_, offset)| *offset >= needed).count();
            Next::WaitFor(in_sync.len().max(have_it + 1))
        }
    }
}

/// What an error reply says about the write that it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nothing was applied: send it again under the next view, until the deadline.
    Definite(Cause),
    /// The key holds another type: nothing was applied, and sending it again does not help.
    WrongType,
    /// Any other error. It is not known here what it left behind, so it is never sent again blindly.
    Indeterminate,
}

/// Why nothing was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The server carries another epoch than the view: one of the two is late.
    Fenced,
    /// The server is a replica.
    ReadOnly,
    /// It has too few replicas, lost its primary, is loading, is busy with a script, or out of memory or disk.
    Unfit,
    /// It does not know the script (any more): load it and send again.
    NoScript,
    /// It does not let us.
    Denied,
}

/// R9: sorts an error reply by its first word.
pub fn classify(error: &str) -> Failure {
    // Redis before 7.0 puts the place in the script before a refusal: `@user_script: 2: -OOM command not allowed`.
    let refusal = error.strip_prefix('@').and_then(|rest| rest.split_once(": -")).map(|(_, refusal)| refusal);
    let code = refusal.unwrap_or(error).split(|c: char| c.is_ascii_whitespace()).next().unwrap_or_default();
    match code {
        "FENCED" => Failure::Definite(Cause::Fenced),
        "READONLY" => Failure::Definite(Cause::ReadOnly),
        "NOSCRIPT" => Failure::Definite(Cause::NoScript),
        "NOAUTH" | "WRONGPASS" | "NOPERM" => Failure::Definite(Cause::Denied),
        "NOREPLICAS" | "LOADING" | "MASTERDOWN" | "BUSY" | "OOM" | "MISCONF" | "EXECABORT" => {
            Failure::Definite(Cause::Unfit)
        }
        "WRONGTYPE" => Failure::WrongType,
        // UNBLOCKED as an answer to WAIT belongs here too: the write before it was applied.
        _ => Failure::Indeterminate,
    }
}

/// What an acknowledgement promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Every replica in sync has it.
    Sync,
    /// The primary has it.
    Async,
}

impl Durability {
    /// The word for it in files, headers and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Durability::Sync => "sync",
            Durability::Async => "async",
        }
    }
}

/// What became of a batch whose answer never came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is part of this history: acknowledge it.
    Applied,
    /// It is not, and cannot enter it any more: a definite failure, to be sent again.
    NotApplied,
    /// Neither can be said before the barrier is confirmed (R3); until then go on confirming, under the next view
    /// if need be.
    ConfirmFirst,
    /// The marker is gone: nothing can be said, now or later.
    Unknown,
}

/// R17: what the marker says about batch number `batch` of its connection.
///
/// `marker` was read in one step with the barrier write, under a view not older than the batch's, and after the lost
/// connection was killed if the primary is still the same process. It is `None` if the key is missing. `confirmed`
/// says whether [`confirmed`] holds for the barrier.
///
/// Reaching a *higher* number proves a batch only because each batch runs only if the marker holds the number of
/// the one before it, or is not sent before that one was answered.
pub fn settle(marker: Option<u64>, batch: u64, durability: Durability, confirmed: bool) -> Settled {
    match (marker, durability) {
        (None, _) => Settled::Unknown,
        (Some(_), Durability::Sync) if !confirmed => Settled::ConfirmFirst,
        (Some(number), _) if number >= batch => Settled::Applied,
        (Some(_), _) if confirmed => Settled::NotApplied,
        (Some(_), _) => Settled::ConfirmFirst,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::borrow::ToOwned;
    use alloc::{format, vec};

    fn replica(port: u16) -> InSync {
        InSync {
            addr: format!("redis-{port}:6379").parse().unwrap(),
            seen_as: format!("10.0.0.1:{port}"),
            run_id: "r".into(),
            since: 1,
            replid: "h".into(),
            later: Vec::new(),
        }
    }

    fn row(port: u16, offset: u64) -> (String, u64) {
        (format!("10.0.0.1:{port}"), offset)
    }

    #[test]
    fn every_replica_in_sync_must_have_it() {
        let set = [replica(1), replica(2)];
        let behind = |ports: &[u16]| {
            Confirmation::Behind(ports.iter().map(|port| replica(*port).addr).collect::<Vec<_>>())
        };
        let rows = [
            (vec![row(1, 100), row(2, 100)], Confirmation::Confirmed),
            (vec![row(2, 101), row(1, 100), row(3, 0)], Confirmation::Confirmed),
            (vec![row(1, 100), row(2, 99)], behind(&[2])),
            (vec![row(1, 100)], behind(&[2])),
            // A stranger, and a replica that is listed twice, stand for nobody else.
            (vec![row(1, 100), row(3, 100)], behind(&[2])),
            (vec![row(1, 100), row(1, 100)], behind(&[2])),
            // After a half-open link the same replica stands there twice; the better entry counts.
            (vec![row(1, 5), row(1, 100), row(2, 100)], Confirmation::Confirmed),
            (vec![], behind(&[1, 2])),
        ];
        for (role, expected) in rows {
            assert_eq!(confirmed(&set, 100, &role, Some(7), 7), expected, "{role:?}");
        }
        assert_eq!(confirmed(&[], 100, &[], Some(7), 7), Confirmation::Confirmed);
    }

    #[test]
    fn another_epoch_confirms_nothing() {
        for fence in [None, Some(0), Some(6), Some(8)] {
            let role = [row(1, 100)];
            assert_eq!(confirmed(&[replica(1)], 1, &role, fence, 7), Confirmation::Fenced, "{fence:?}");
            assert_eq!(confirmed(&[], 1, &[], fence, 7), Confirmation::Fenced, "{fence:?}");
        }
    }

    #[test]
    fn fewer_than_min_in_sync_take_no_writes() {
        let set = [replica(1), replica(2)];
        let rows = [
            (0, 0, true),
            (0, 1, false),
            (1, 0, true),
            (1, 1, true),
            (1, 2, false),
            (2, 2, true),
            (2, 3, false),
        ];
        for (size, min_in_sync, expected) in rows {
            assert_eq!(admits(&set[..size], min_in_sync), expected, "{size} of {min_in_sync}");
        }
    }

    #[test]
    fn what_follows_a_look() {
        let set = [replica(1), replica(2)];
        let all = [row(1, 100), row(2, 100)];
        let one = [row(1, 100), row(2, 99)];
        let stranger = [row(1, 100), row(3, 100), row(4, 100)];
        let good = Look { offset: Some(100), waited: true, replicas: Some(&all), fence: Some(7) };
        let rows = [
            (good, Next::Acknowledge),
            // Later looks have a higher offset; what was needed at first is what counts.
            (Look { offset: Some(500), ..good }, Next::Acknowledge),
            (Look { replicas: Some(&one), ..good }, Next::WaitFor(2)),
            (Look { replicas: Some(&[]), ..good }, Next::WaitFor(2)),
            // The strangers would answer a WAIT for two, or for three, at once.
            (Look { replicas: Some(&stranger), ..good }, Next::WaitFor(4)),
            (Look { waited: false, ..good }, Next::Settle),
            (Look { offset: None, ..good }, Next::Settle),
            (Look { replicas: None, ..good }, Next::Settle),
            (Look { fence: None, ..good }, Next::Settle),
            (Look { fence: Some(6), ..good }, Next::Settle),
            (Look { fence: Some(8), ..good }, Next::Settle),
            (Look { fence: Some(8), replicas: Some(&one), ..good }, Next::Settle),
        ];
        for (look, expected) in rows {
            assert_eq!(judge(&set, 7, 100, &look), expected, "{look:?}");
        }
        let alone = Look { replicas: Some(&[]), ..good };
        assert_eq!(judge(&[], 7, 100, &alone), Next::Acknowledge, "nobody else has to have it");
        assert_eq!(judge(&[], 7, 100, &Look { fence: Some(8), ..alone }), Next::Settle);
    }

    /// Every set of up to three, each replica absent, behind, at or beyond the offset, strangers beside them.
    #[test]
    fn nothing_is_acknowledged_that_a_replica_in_sync_lacks() {
        let seen = [None, Some(99), Some(100), Some(101)];
        for (size, case) in (0..=3_u16).flat_map(|size| (0..4_usize.pow(4)).map(move |case| (size, case))) {
            let at = |port: u16| seen[case / 4_usize.pow(u32::from(port)) % 4];
            let set: Vec<_> = (0..size).map(replica).collect();
            let role: Vec<_> = (0..4).filter_map(|port| Some(row(port, at(port)?))).collect();
            let look = Look { offset: Some(100), waited: true, replicas: Some(&role), fence: Some(7) };
            let all_have_it = (0..size).all(|port| at(port) >= Some(100));
            match judge(&set, 7, 100, &look) {
                Next::Acknowledge => assert!(all_have_it, "{set:?} {role:?}"),
                Next::WaitFor(replicas) => {
                    assert!(!all_have_it, "{set:?} {role:?}");
                    let have_it = role.iter().filter(|(_, offset)| *offset >= 100).count();
                    assert!(replicas > have_it && replicas >= set.len(), "such a WAIT would not wait");
                }
                Next::Settle => panic!("{set:?} {role:?}"),
            }
        }
    }

    #[test]
    fn the_list_of_definite_failures_is_the_one_of_r9() {
        let definite = [
            "FENCED",
            "READONLY",
            "NOREPLICAS",
            "NOAUTH",
            "WRONGPASS",
            "NOPERM",
            "LOADING",
            "MASTERDOWN",
            "BUSY",
            "NOSCRIPT",
            "OOM",
            "MISCONF",
            "EXECABORT",
        ];
        for code in definite {
            for text in [code.to_owned(), format!("{code} and more"), format!("{code}\nx")] {
                assert!(matches!(classify(&text), Failure::Definite(_)), "{text}");
            }
            for text in [format!("ERR {code}"), format!("{code}X"), code.to_lowercase(), format!(" {code}")] {
                assert_eq!(classify(&text), Failure::Indeterminate, "{text}");
            }
        }
        for other in ["", "ERR", "UNBLOCKED client unblocked", "BUSYKEY x", "MOVED 1 a:1", "UNKILLABLE x"] {
            assert_eq!(classify(other), Failure::Indeterminate, "{other}");
        }
        assert_eq!(classify("WRONGTYPE Operation against a key"), Failure::WrongType);
        assert_eq!(classify("READONLY You can't write"), Failure::Definite(Cause::ReadOnly));
        assert_eq!(classify("NOSCRIPT No matching script"), Failure::Definite(Cause::NoScript));
        assert_eq!(classify("NOPERM x"), Failure::Definite(Cause::Denied));
        // As Redis 6.2 words it inside a script.
        let placed = "@user_script: 2: -OOM command not allowed when used memory > 'maxmemory'.";
        assert_eq!(classify(placed), Failure::Definite(Cause::Unfit));
        assert_eq!(classify("@user_script: 2: no refusal"), Failure::Indeterminate);
    }

    #[test]
    fn the_whole_table_of_settling() {
        use Durability::{Async, Sync};
        use Settled::{Applied, ConfirmFirst, NotApplied, Unknown};
        // marker, durability, confirmed -> what became of batch 5
        let table = [
            (None, Async, false, Unknown),
            (None, Async, true, Unknown),
            (None, Sync, false, Unknown),
            (None, Sync, true, Unknown),
            (Some(0), Async, false, ConfirmFirst),
            (Some(0), Async, true, NotApplied),
            (Some(0), Sync, false, ConfirmFirst),
            (Some(0), Sync, true, NotApplied),
            (Some(4), Async, false, ConfirmFirst),
            (Some(4), Async, true, NotApplied),
            (Some(4), Sync, false, ConfirmFirst),
            (Some(4), Sync, true, NotApplied),
            (Some(5), Async, false, Applied),
            (Some(5), Async, true, Applied),
            (Some(5), Sync, false, ConfirmFirst),
            (Some(5), Sync, true, Applied),
            (Some(6), Async, false, Applied),
            (Some(6), Sync, false, ConfirmFirst),
            (Some(6), Sync, true, Applied),
        ];
        for (marker, durability, confirmed, expected) in table {
            let settled = settle(marker, 5, durability, confirmed);
            assert_eq!(settled, expected, "{marker:?} {durability:?} {confirmed}");
        }
    }
}
