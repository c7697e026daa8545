//! From the death of a primary to the word of it: `kill -9` until a client of Redis Sentinel that is subscribed at a monitor
//! has `+switch-master` in its hands. What a client does then is its own time.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use world::Host;
use world::group::Group;
use world::resp::Connection;

use crate::figures::{Clockwork, Measure, Series, Table, load};

const KILLS: usize = 20;
const LIMIT: Duration = Duration::from_secs(20);
/// Longer than `min_interval_ms`, within which no second failover would follow.
const PAUSE: Duration = Duration::from_millis(1500);

pub(crate) fn run() -> Table {
    let mut group = Group::of(2).apis(0).sentinel().start();
    let mut heard = [Series::default(), Series::default()];
    let (mut loads, mut stolen) = (Series::default(), Series::default());
    for _ in 0..KILLS {
        let primary = group.settled().primary.addr;
        let killed = group.number_of(&primary);
        let active = group.wait_for_active();
        thread::sleep(PAUSE);
        loads.add(load());
        let began = Clockwork::now();
        // The monitor that leads, then the other one.
        let subscribed = Arc::new(Barrier::new(3));
        let clients = [active, 1 - active].map(|number| {
            let (at, subscribed) = (group.sentinel_address(number), subscribed.clone());
            thread::spawn(move || {
                let mut connection = Connection::open(&Host::local(), at, LIMIT).expect("a connection");
                connection.call(&["SUBSCRIBE", "+switch-master"]).expect("a confirmation");
                subscribed.wait();
                let message = connection.receive().expect("an announcement");
                (Instant::now(), message.list()[2].text().to_owned())
            })
        });
        subscribed.wait();
        let begun = Instant::now();
        group.redis[killed].kill();
        for (series, client) in heard.iter_mut().zip(clients) {
            let (at, payload) = client.join().expect("a client");
            let old = format!("posts {} {} ", primary.host(), primary.port());
            assert!(payload.starts_with(&old), "{payload}");
            series.add((at - begun).as_secs_f64() * 1e3);
        }
        stolen.add(Clockwork::now().stolen_since(began));
        group.redis[killed].restart();
    }
    let [first, second] = heard;
    let measure =
        |what, figures| Measure { what, unit: "ms", figures, goal: ("<= 20", |median| median <= 20.0) };
    Table {
        name: "announcement",
        rows: Vec::new(),
        measures: vec![
            measure("kill to +switch-master at the monitor that leads", first),
            measure("kill to +switch-master at the other monitor", second),
        ],
        loads,
        stolen,
        conditions: format!("two replicas, loopback, {KILLS} kills of an idle primary, default settings"),
    }
}
