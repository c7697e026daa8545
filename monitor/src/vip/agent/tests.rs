//! Tables: at this time this happens, and this is what the agent asks for. Sessions are those of 6 s: the lease ends after
//! 3 s, lifetimes of 2 s begin up to 1.25 s after the renewal was sent.

use super::*;

fn ms(ms: u64) -> Time {
    Duration::from_millis(ms)
}

fn here(epoch: u64) -> Event {
    Event::Record(Record::Here { epoch, run_id: "r".into() })
}

fn elsewhere() -> Event {
    Event::Record(Record::Not("b:1 is primary, epoch 8".into()))
}

fn primary(asked: u64) -> Event {
    Event::Server(Server::Primary { run_id: "r".into(), asked: ms(asked) })
}

fn gone() -> Event {
    Event::Server(Server::Not("connection refused".into()))
}

fn session(generation: u64) -> Event {
    Event::Session(Some((generation, Lease::of(ms(6000)).unwrap())))
}

fn claimed(sent: u64) -> Event {
    Event::Claimed { generation: 1, sent: ms(sent) }
}

fn seen(seen: Seen) -> Event {
    Event::Claim(seen)
}

fn no() -> String {
    "no".to_owned()
}

/// The commands in a line.
fn shown(agent: &mut Agent) -> String {
    let word = |command| match command {
        Command::Claim { epoch, generation } => format!("claim {epoch} in {generation}"),
        Command::Renew => "renew".to_owned(),
        Command::Unclaim => "unclaim".to_owned(),
        Command::Clear => "clear".to_owned(),
        Command::Add(seconds) => format!("add {seconds}"),
        Command::Refresh(seconds) => format!("refresh {seconds}"),
        Command::Remove => "remove".to_owned(),
        Command::Announce => "announce".to_owned(),
        Command::Say(Line::Taken(epoch)) => format!("taken {epoch}"),
        Command::Say(Line::Released(epoch, why)) => format!("released {epoch}: {why}"),
        Command::Say(Line::Waiting(host)) => format!("waiting for {host}"),
        Command::Say(Line::Trouble(_)) => "trouble".to_owned(),
        Command::End => "end".to_owned(),
    };
    let words: Vec<String> = std::iter::from_fn(|| agent.poll_command()).map(word).collect();
    words.join(", ")
}

#[track_caller]
fn follow(agent: &mut Agent, rows: &[(u64, Event, &str)]) {
    for (at, event, expected) in rows {
        agent.handle(event.clone(), ms(*at));
        assert_eq!(shown(agent), *expected, "at {at} ms after {event:?}: {agent:?}");
    }
}

/// An agent that took the address at 1000 ms with a claim sent at 990 ms.
fn holding() -> Agent {
    let mut agent = Agent::new(ms(500));
    let rows = [
        (1000, session(1), ""),
        (1000, seen(Seen::Free), ""),
        (1000, here(7), ""),
        (1000, primary(985), "claim 7 in 1"),
        (1000, claimed(990), "add 2"),
        (1000, Event::Added, "announce, taken 7"),
        (1001, seen(Seen::Own), ""),
    ];
    follow(&mut agent, &rows);
    agent
}

#[test]
fn the_address_is_taken_once_everything_is_known_and_nobody_claims_it() {
    let everything = [session(1), seen(Seen::Free), here(7), primary(990)];
    for missing in 0..everything.len() {
        let mut agent = Agent::new(ms(500));
        let mut known = everything.to_vec();
        let last = known.remove(missing);
        for event in known {
            follow(&mut agent, &[(1000, event, "")]);
        }
        follow(&mut agent, &[(1000, last, "claim 7 in 1"), (1001, claimed(1000), "add 2")]);
    }
}

#[test]
fn whatever_is_not_as_it_has_to_be_gives_it_back_at_once() {
    let another = Event::Server(Server::Primary { run_id: "s".into(), asked: ms(1100) });
    for (event, why) in [
        (elsewhere(), "b:1 is primary, epoch 8"),
        (gone(), "the local server: connection refused"),
        (another, "the local server is another process than the recorded primary"),
        (Event::Session(None), "the ZooKeeper session is over"),
        (session(2), "the ZooKeeper session is over"),
        (seen(Seen::Free), "the claim was removed by somebody"),
        (seen(Seen::Orphan), "the claim was removed by somebody"),
        (seen(Seen::Other("h".into())), "h claims it"),
        (Event::Lost("gone".into()), "gone"),
        (Event::Stop, "the agent ends"),
    ] {
        let mut agent = holding();
        let released = format!("released 7: {why}, unclaim");
        follow(&mut agent, &[(1100, event, "remove"), (1100, Event::Removed, released.as_str())]);
    }
}

/// The interval is 375 ms.
#[test]
fn claim_and_lifetime_are_renewed_and_one_renewal_is_under_way_at_a_time() {
    let rows = [
        (1200, primary(1200), ""),
        (1365, Event::Tick, "renew"),
        (1375, Event::Tick, "refresh 2"),
        (1375, Event::Refreshed(true), ""),
        (1600, primary(1600), ""),
        (1740, Event::Tick, ""),
        (1750, Event::Tick, "refresh 2"),
        (1750, Event::Refreshed(true), ""),
        (2010, Event::Renewed(ms(1365)), "renew"),
        (2050, primary(2050), ""),
        (2060, Event::Renewed(ms(2010)), ""),
        (2125, Event::Tick, "refresh 2"),
        (2125, Event::Refreshed(false), "trouble, announce"),
        (2385, Event::Tick, "renew"),
    ];
    follow(&mut holding(), &rows);
}

/// Sent at 990: no lifetime begins after 2240, and at 3990 the agent gives up.
#[test]
fn without_renewals_it_is_given_back_after_half_a_session() {
    let mut agent = holding();
    let rows = [
        (1360, primary(1360), ""),
        (1365, Event::Tick, "renew"),
        (1375, Event::Tick, "refresh 2"),
        (1375, Event::Refreshed(true), ""),
        (1800, primary(1800), "refresh 2"),
        (1800, Event::Refreshed(true), ""),
        (2100, Event::NotRenewed(no()), "trouble"),
        (2200, primary(2200), "renew"),
        (2600, primary(2600), ""),
        (3000, primary(3000), ""),
        (3400, primary(3400), ""),
        (3800, primary(3800), ""),
        (3989, Event::Tick, ""),
    ];
    follow(&mut agent, &rows);
    let mut late = agent.clone();
    let why = "released 7: ZooKeeper has not answered for 3.0 s, unclaim";
    follow(&mut agent, &[(3990, Event::Tick, "remove"), (3990, Event::Removed, why)]);
    // An answer at the last moment grants no more than half a session from 2200 on, and no lifetime after 3350.
    let rows = [
        (3989, Event::Renewed(ms(2200)), "renew"),
        (4200, primary(4200), ""),
        (4600, primary(4600), ""),
        (5000, primary(5000), ""),
        (5199, Event::Tick, ""),
        (5200, Event::Tick, "remove"),
    ];
    follow(&mut late, &rows);
}

/// A lifetime that had to wait for a renewal is set as soon as that is answered.
#[test]
fn a_late_renewal_is_made_use_of_at_once() {
    let mut agent = Agent { patience: ms(60_000), ..holding() };
    let rows = [
        (1365, Event::Tick, "renew"),
        (2200, Event::Tick, ""),
        (2300, Event::Renewed(ms(1900)), "renew, refresh 2"),
    ];
    follow(&mut agent, &rows);
}

/// The timer tells when to come back, and only then.
#[test]
fn the_next_moment_is_the_earliest_that_matters() {
    let mut agent = holding();
    assert_eq!(agent.poll_timeout(), Some(ms(1365)), "the renewal");
    follow(&mut agent, &[(1365, Event::Tick, "renew")]);
    assert_eq!(agent.poll_timeout(), Some(ms(1375)), "the lifetime");
    follow(&mut agent, &[(1375, Event::Tick, "refresh 2"), (1375, Event::Refreshed(true), "")]);
    assert_eq!(agent.poll_timeout(), Some(ms(1485)), "the server, asked at 985");
    follow(&mut agent, &[(1400, elsewhere(), "remove")]);
    assert_eq!(agent.poll_timeout(), None, "the kernel answers at once");
    follow(&mut agent, &[(1400, Event::NotRemoved(no()), "trouble")]);
    assert_eq!(agent.poll_timeout(), Some(ms(1500)));
    assert_eq!(Agent::new(ms(500)).poll_timeout(), None);
}

#[test]
fn a_silent_server_counts_as_gone_and_a_busy_one_as_what_it_was() {
    let busy = |asked| Event::Server(Server::Busy { asked: ms(asked) });
    let rows = [
        (1365, busy(1360), "renew"),
        (1370, Event::Renewed(ms(1365)), ""),
        (1375, Event::Tick, "refresh 2"),
        (1375, Event::Refreshed(true), ""),
        (1400, busy(1400), ""),
        (1740, Event::Tick, "renew"),
        (1740, Event::Renewed(ms(1740)), ""),
        (1750, Event::Tick, "refresh 2"),
        (1750, Event::Refreshed(true), ""),
        (1899, Event::Tick, ""),
        (1900, Event::Tick, "remove"),
        (1900, Event::Removed, "released 7: the local server has not answered for 500 ms, unclaim"),
        (1910, Event::Unclaimed, ""),
        (1950, seen(Seen::Free), ""),
        (1960, busy(1960), "claim 7 in 1"),
    ];
    follow(&mut holding(), &rows);
    let mut agent = Agent::new(ms(500));
    let rows = [(0, session(1), ""), (0, seen(Seen::Free), ""), (0, here(7), ""), (0, busy(0), "")];
    follow(&mut agent, &rows);
}

/// A new set in sync raises the epoch; the primary is the same process.
#[test]
fn a_new_epoch_of_the_same_primary_changes_nothing() {
    follow(&mut holding(), &[(1100, here(8), ""), (1200, here(9), "")]);
}

/// Stopped at 1100, woken at 9000: whatever it hears first, it removes the address (which the kernel has done long ago).
#[test]
fn after_a_pause_the_first_thing_is_to_let_go() {
    for event in [
        Event::Tick,
        primary(9000),
        Event::Renewed(ms(1365)),
        here(8),
        seen(Seen::Own),
        Event::Refreshed(true),
    ] {
        let mut agent = holding();
        agent.handle(event.clone(), ms(9000));
        let first = shown(&mut agent);
        assert!(first.ends_with("remove") && !first.contains("refresh"), "{event:?}: {first}");
    }
}

/// The process stood still between its look at the clock and the kernel's answer.
#[test]
fn an_address_that_was_set_too_late_is_removed_at_once() {
    let mut agent = Agent::new(ms(60_000));
    let rows = [
        (1000, session(1), ""),
        (1000, seen(Seen::Free), ""),
        (1000, here(7), ""),
        (1000, primary(1000), "claim 7 in 1"),
        (1000, claimed(1000), "add 2"),
        (2251, Event::Added, "announce, taken 7, remove"),
    ];
    follow(&mut agent, &rows);
}

/// A claim whose answer came late is renewed before anything is added.
#[test]
fn an_old_claim_is_renewed_first() {
    let mut agent = Agent::new(ms(60_000));
    let rows = [
        (1000, session(1), ""),
        (1000, seen(Seen::Free), ""),
        (1000, here(7), ""),
        (1000, primary(1000), "claim 7 in 1"),
        (2800, claimed(1000), "renew"),
        (2900, Event::Renewed(ms(2800)), "add 2"),
    ];
    follow(&mut agent, &rows);
}

#[test]
fn a_claim_that_is_not_wanted_any_more_is_let_go_without_an_address() {
    let mut agent = Agent::new(ms(500));
    let rows = [
        (0, session(1), ""),
        (0, seen(Seen::Free), ""),
        (0, here(7), ""),
        (0, primary(0), "claim 7 in 1"),
        (5, elsewhere(), ""),
        (9, claimed(1), "unclaim"),
        (10, Event::NotUnclaimed(no()), "trouble"),
        (110, Event::Tick, "unclaim"),
        (111, Event::Unclaimed, ""),
    ];
    follow(&mut agent, &rows);
}

#[test]
fn the_claim_stays_until_the_kernel_has_confirmed() {
    let rows = [
        (1100, gone(), "remove"),
        (1100, Event::NotRemoved(no()), "trouble"),
        (1150, primary(1150), ""),
        (1199, Event::Tick, ""),
        (1200, Event::Tick, "remove"),
        (1200, Event::Removed, "released 7: the local server: connection refused, unclaim"),
    ];
    follow(&mut holding(), &rows);
}

#[test]
fn an_address_that_cannot_be_added_is_tried_again_after_a_second() {
    let mut agent = Agent::new(ms(5000));
    let rows = [
        (0, session(1), ""),
        (0, seen(Seen::Free), ""),
        (0, here(7), ""),
        (0, primary(0), "claim 7 in 1"),
        (1, claimed(0), "add 2"),
        (1, Event::NotAdded(no()), "trouble, unclaim"),
        (2, Event::Unclaimed, ""),
        (3, seen(Seen::Free), ""),
        (999, Event::Tick, ""),
        (1001, Event::Tick, "claim 7 in 1"),
    ];
    follow(&mut agent, &rows);
}

#[test]
fn while_another_one_claims_it_the_agent_waits_and_says_so_once() {
    let mut agent = Agent::new(ms(5000));
    let rows = [
        (0, session(1), ""),
        (0, seen(Seen::Other("h".into())), ""),
        (0, here(7), ""),
        (0, primary(0), "waiting for h"),
        (9, seen(Seen::Other("h".into())), ""),
        (10, primary(10), ""),
        (20, seen(Seen::Free), "claim 7 in 1"),
        (21, Event::NotClaimed(no()), ""),
        (22, seen(Seen::Other("i".into())), ""),
        (121, Event::Tick, "waiting for i"),
    ];
    follow(&mut agent, &rows);
}

/// Also where the address is not wanted: the host of the new primary waits for it.
#[test]
fn what_an_agent_of_this_host_left_behind_is_cleared() {
    let mut agent = Agent::new(ms(500));
    let rows = [
        (0, elsewhere(), ""),
        (0, seen(Seen::Orphan), ""),
        (0, session(1), "clear"),
        (5, Event::Tick, ""),
        (6, Event::Cleared, ""),
        (50, here(7), ""),
        (60, primary(60), ""),
        (70, seen(Seen::Free), ""),
        (106, Event::Tick, "claim 7 in 1"),
    ];
    follow(&mut agent, &rows);
    // It was not removed: again.
    let mut agent = Agent::new(ms(500));
    let rows = [
        (0, seen(Seen::Orphan), ""),
        (0, session(1), "clear"),
        (6, Event::Cleared, ""),
        (106, Event::Tick, "clear"),
    ];
    follow(&mut agent, &rows);
}

#[test]
fn the_end_comes_when_nothing_is_held() {
    let rows = [
        (1100, Event::Stop, "remove"),
        (1100, Event::Removed, "released 7: the agent ends, unclaim"),
        (1105, Event::Unclaimed, "end"),
    ];
    follow(&mut holding(), &rows);
    // ZooKeeper is away: the claim goes with the session.
    let rows = [
        (1100, Event::Stop, "remove"),
        (1100, Event::Removed, "released 7: the agent ends, unclaim"),
        (2105, Event::NotUnclaimed(no()), "trouble, end"),
    ];
    follow(&mut holding(), &rows);
    follow(&mut Agent::new(ms(500)), &[(0, Event::Stop, "end")]);
    let mut agent = Agent::new(ms(500));
    let rows = [
        (0, session(1), ""),
        (0, seen(Seen::Free), ""),
        (0, here(7), ""),
        (0, primary(0), "claim 7 in 1"),
        (5, Event::Stop, "end"),
    ];
    follow(&mut agent, &rows);
}
