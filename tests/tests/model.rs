//! Every reachable state of two monitors, two or three servers and one write ([`world::model`]).
//!
//! `make model` searches further.

use std::time::Instant;

use stateright::{Checker, Model, Property};
use world::model::{Bounds, Broken, Step, World};

struct Instance(Bounds);

impl Model for Instance {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(&self.0)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        steps.extend(world.steps(&self.0));
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let next = world.after(&self.0, &step);
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no acknowledged write is lost", |_, world: &World| !world.lost()),
            Property::always("no rule is broken", |_, world: &World| !world.is_broken()),
            Property::sometimes("a write is acknowledged", |_, world: &World| world.acknowledged()),
            Property::sometimes("another server serves", |_, world: &World| world.failed_over()),
            Property::sometimes("another server serves what was acknowledged", |_, world: &World| {
                world.failed_over() && world.acknowledged()
            }),
        ]
    }
}

const SMALL: Bounds = Bounds {
    servers: 2,
    epochs: 3,
    changes: true,
    takeovers: 2,
    deaths: 0,
    restarts: 0,
    erasures: 0,
    flaw: None,
};

/// One failover, the set as it is.
const THREE: Bounds = Bounds { servers: 3, epochs: 2, changes: false, takeovers: 2, ..SMALL };

fn search(bounds: Bounds) {
    let begun = Instant::now();
    let text = format!("{bounds:?}");
    let checker = Instance(bounds).checker().threads(2).spawn_bfs().join();
    println!("{} states in {:.1?}: {text}", checker.unique_state_count(), begun.elapsed());
    checker.assert_properties();
}

#[test]
fn two_servers() {
    search(Bounds { epochs: 4, ..SMALL });
}

#[test]
fn two_servers_and_a_restart() {
    search(Bounds { restarts: 1, ..SMALL });
}

#[test]
fn two_servers_and_an_erased_fence() {
    search(Bounds { erasures: 1, ..SMALL });
}

#[test]
fn three_servers() {
    search(THREE);
}

#[test]
fn three_servers_and_a_restart() {
    search(Bounds { restarts: 1, takeovers: 1, ..THREE });
}

#[test]
fn three_servers_and_a_death() {
    search(Bounds { deaths: 1, ..THREE });
}

/// Takes minutes: `make model`.
#[test]
#[ignore = "takes minutes; make model runs it"]
fn further() {
    for bounds in [
        Bounds { epochs: 4, restarts: 1, erasures: 1, ..SMALL },
        Bounds { restarts: 1, ..THREE },
        Bounds { deaths: 1, restarts: 1, takeovers: 1, ..THREE },
        Bounds { takeovers: 1, changes: true, ..THREE },
    ] {
        search(bounds);
    }
}

/// The search notices a broken rule.
#[test]
fn a_broken_rule_is_noticed() {
    for (broken, bounds) in [
        (Broken::NoWatch, SMALL),
        (Broken::NoCheck, SMALL),
        (Broken::AnyMember, Bounds { epochs: 4, takeovers: 0, ..SMALL }),
        (Broken::NilIsZero, Bounds { erasures: 1, ..SMALL }),
        (Broken::NoCredential, Bounds { restarts: 1, ..SMALL }),
        (Broken::OpenDoor, Bounds { restarts: 1, takeovers: 1, ..THREE }),
        (Broken::OneCopy, SMALL),
    ] {
        let begun = Instant::now();
        let checker = Instance(Bounds { flaw: Some(broken), ..bounds }).checker().spawn_bfs().join();
        let found = checker.discoveries();
        let noticed =
            ["no acknowledged write is lost", "no rule is broken"].map(|name| found.contains_key(name));
        println!(
            "{broken:?}: {noticed:?}, {} states in {:.1?}",
            checker.unique_state_count(),
            begun.elapsed()
        );
        assert!(noticed.contains(&true), "{broken:?} was not noticed");
    }
}
