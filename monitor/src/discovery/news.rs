//! From two consecutive snapshots to announcements in the channels and words of Redis Sentinel, in the order in which clients expect them: the old primary is down,
//! another one is primary, its replicas, who of them follows it.

use std::sync::Arc;

use topology::Endpoint;

use super::facts::{Fellow, Master, Replica, Service};

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announcement {
    pub(crate) channel: &'static str,
    pub(crate) payload: String,
}

/// What happened to a service between the snapshot that was told of last and this one. Of one that is not certain
/// nothing is told; it is not kept as told either.
pub(super) fn news(name: &str, told: &Service, is: &Service) -> Vec<Announcement> {
    let Some(master) = is.shown() else { return Vec::new() };
    let mut all = Vec::new();
    let switched = told.named.as_ref().zip(is.named.as_ref()).filter(|(old, new)| old != new);
    match (&told.master, switched) {
        (Some(was), None) if was.addr == master.addr => turned(&mut all, name, Some(was), master),
        (was, Some((old, _))) => {
            // It may be gone in one step with the arrival of its successor.
            let gone = is.replicas.iter().find(|replica| replica.addr == *old && !replica.usable);
            if let Some(gone) = gone {
                let was = was.as_ref().filter(|was| was.addr == *old);
                let old = Master { addr: old.clone(), s_down: true, o_down: true, ..master.clone() };
                if gone.disconnected || was.is_some_and(|was| was.s_down) {
                    turned(&mut all, name, was, &old);
                }
            }
        }
        (Some(_) | None, None) => {}
    }
    if let Some((old, new)) = switched {
        let payload = format!("{name} {} {} {} {}", old.host(), old.port(), new.host(), new.port());
        all.push(Announcement { channel: "+switch-master", payload });
    }
    let known = told.replicas.iter().filter(|_| switched.is_none());
    let known: Vec<&Replica> = known.collect();
    let before = |replica: &Replica| known.iter().find(|other| other.addr == replica.addr);
    let mut tell = |channel, replica: &Replica| {
        let payload = format!("slave {} {} @ {}", replica.addr, words(&replica.addr), of(name, &master.addr));
        all.push(Announcement { channel, payload });
    };
    is.replicas.iter().filter(|replica| before(replica).is_none()).for_each(|r| tell("+slave", r));
    for replica in &is.replicas {
        match (before(replica).is_none_or(|before| before.usable), replica.usable) {
            (true, false) => tell("+sdown", replica),
            (false, true) => tell("-sdown", replica),
            (true, true) | (false, false) => {}
        }
    }
    for replica in &is.replicas {
        if replica.follows && before(replica).is_none_or(|before| !before.follows) {
            tell("+slave-reconf-done", replica);
            tell("+replica-reconf-done", replica);
        }
    }
    all
}

/// A primary went down or is back.
fn turned(all: &mut Vec<Announcement>, name: &str, was: Option<&Master>, is: &Master) {
    let payload = format!("master {}", of(name, &is.addr));
    let mut tell = |channel| all.push(Announcement { channel, payload: payload.clone() });
    let (s_down, o_down) = was.map_or((false, false), |was| (was.s_down, was.o_down));
    match (s_down, is.s_down) {
        (false, true) => tell("+sdown"),
        (true, false) => tell("-sdown"),
        (true, true) | (false, false) => {}
    }
    match (o_down, is.o_down) {
        (false, true) => tell("+odown"),
        (true, false) => tell("-odown"),
        (true, true) | (false, false) => {}
    }
}

/// What happened to the other endpoints, told for every service.
pub(super) fn of_fellows<'a>(
    services: impl Iterator<Item = (&'a String, &'a Arc<Service>)>,
    were: &[Fellow],
    are: &[Fellow],
) -> Vec<Announcement> {
    let as_before = |fellow: &Fellow| {
        let was = were.iter().find(|was| was.id == fellow.id);
        was.is_some_and(|was| (&was.addr, was.up) == (&fellow.addr, fellow.up))
    };
    let mut all = Vec::new();
    if are.iter().all(as_before) {
        return all; // nearly always
    }
    for (name, service) in services {
        let Some(master) = &service.master else { continue };
        for fellow in are {
            let payload =
                format!("sentinel {} {} @ {}", fellow.id, words(&fellow.addr), of(name, &master.addr));
            let mut tell = |channel| all.push(Announcement { channel, payload: payload.clone() });
            let was = were.iter().find(|was| was.id == fellow.id);
            if was.is_none_or(|was| was.addr != fellow.addr) {
                tell("+sentinel");
            }
            match (was.is_none_or(|was| was.up), fellow.up) {
                (true, false) => tell("+sdown"),
                (false, true) => tell("-sdown"),
                (true, true) | (false, false) => {}
            }
        }
    }
    all
}

fn words(addr: &Endpoint) -> String {
    format!("{} {}", addr.host(), addr.port())
}

fn of(name: &str, master: &Endpoint) -> String {
    format!("{name} {}", words(master))
}

#[cfg(test)]
mod tests {
    use super::super::facts::examples::{at, fellow, replica, service};
    use super::*;

    fn lines(news: &[Announcement]) -> Vec<String> {
        news.iter().map(|news| format!("{} {}", news.channel, news.payload)).collect()
    }

    fn between(told: &Service, is: &Service) -> Vec<String> {
        lines(&news("posts", told, is))
    }

    fn down(mut service: Service, o_down: bool) -> Service {
        let master = service.master.as_mut().unwrap();
        (master.s_down, master.o_down, master.disconnected) = (true, o_down, true);
        service
    }

    fn promoting(service: Service, to: u16) -> Service {
        let mut service = down(service, true);
        service.master.as_mut().unwrap().in_progress = true;
        service.replicas.retain(|replica| replica.addr != at(to));
        service
    }

    /// 6380 is primary, 6379 is dead, 6381 does not follow yet.
    fn after() -> Service {
        let mut is = service(&[6380, 6379, 6381]);
        (is.replicas[0].usable, is.replicas[0].disconnected, is.replicas[0].follows) = (false, true, false);
        is.replicas[1].follows = false;
        is
    }

    #[test]
    fn a_failover_step_by_step() {
        let well = service(&[6379, 6380, 6381]);
        let silent = down(well.clone(), false);
        let lost = down(well.clone(), true);
        let promoting = promoting(well.clone(), 6380);
        let after = after();
        let mut done = after.clone();
        done.replicas[1].follows = true;
        let mut back = done.clone();
        (back.replicas[0].usable, back.replicas[0].follows) = (true, true);
        let slave = |port| format!("slave 10.0.0.1:{port} 10.0.0.1 {port} @ posts 10.0.0.1 6380");
        for (from, to, expected) in [
            (&well, &well, vec![]),
            (&well, &silent, vec!["+sdown master posts 10.0.0.1 6379".to_owned()]),
            (&silent, &lost, vec!["+odown master posts 10.0.0.1 6379".to_owned()]),
            (&lost, &promoting, vec![]),
            (
                &promoting,
                &after,
                vec![
                    "+switch-master posts 10.0.0.1 6379 10.0.0.1 6380".to_owned(),
                    format!("+slave {}", slave(6379)),
                    format!("+slave {}", slave(6381)),
                    format!("+sdown {}", slave(6379)),
                ],
            ),
            (
                &after,
                &done,
                vec![
                    format!("+slave-reconf-done {}", slave(6381)),
                    format!("+replica-reconf-done {}", slave(6381)),
                ],
            ),
            (
                &done,
                &back,
                vec![
                    format!("-sdown {}", slave(6379)),
                    format!("+slave-reconf-done {}", slave(6379)),
                    format!("+replica-reconf-done {}", slave(6379)),
                ],
            ),
            (
                &lost,
                &well,
                vec![
                    "-sdown master posts 10.0.0.1 6379".to_owned(),
                    "-odown master posts 10.0.0.1 6379".to_owned(),
                ],
            ),
        ] {
            assert_eq!(between(from, to), expected);
        }
    }

    #[test]
    fn a_failover_in_one_step_has_the_same_order() {
        let told = between(&service(&[6379, 6380, 6381]), &after());
        let channels: Vec<&str> = told.iter().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(channels, ["+sdown", "+odown", "+switch-master", "+slave", "+slave", "+sdown"]);
        assert_eq!(told[0], "+sdown master posts 10.0.0.1 6379");
    }

    #[test]
    fn a_planned_change_tells_nobody_down() {
        let told = between(&service(&[6379, 6380]), &service(&[6380, 6379]));
        let channels: Vec<&str> = told.iter().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(channels, ["+switch-master", "+slave", "+slave-reconf-done", "+replica-reconf-done"]);
    }

    #[test]
    fn what_is_not_certain_is_not_told_of_and_a_switch_is_told_once() {
        let well = service(&[6379, 6380, 6381]);
        let mut uncertain = after();
        uncertain.known = false;
        assert_eq!(between(&well, &uncertain), [""; 0]);
        // Contradicted: it is shown, but not named, so the name stays.
        let mut contradicted = after();
        contradicted.master.as_mut().unwrap().contradicted = true;
        contradicted.named = Some(at(6379));
        assert!(!between(&well, &contradicted).iter().any(|line| line.starts_with("+switch-master")));
        let switches = |from: &Service| {
            between(from, &after()).iter().filter(|line| line.starts_with("+switch-master")).count()
        };
        assert_eq!((switches(&contradicted), switches(&well), switches(&after())), (1, 1, 0));
    }

    #[test]
    fn a_new_replica() {
        let mut is = service(&[6379, 6380]);
        is.replicas.push(replica(6382, 6379));
        let slave = "slave 10.0.0.1:6382 10.0.0.1 6382 @ posts 10.0.0.1 6379";
        assert_eq!(
            between(&service(&[6379, 6380]), &is),
            [
                format!("+slave {slave}"),
                format!("+slave-reconf-done {slave}"),
                format!("+replica-reconf-done {slave}"),
            ]
        );
    }

    #[test]
    fn endpoints() {
        let services = [("posts".to_owned(), Arc::new(service(&[6379])))];
        let between = |were: &[Fellow], are: &[Fellow]| {
            lines(&of_fellows(services.iter().map(|(name, service)| (name, service)), were, are))
        };
        let words = format!("sentinel {:040x} 10.0.0.1 26002 @ posts 10.0.0.1 6379", 2);
        let (up, down) = (fellow(2, true), fellow(2, false));
        assert_eq!(between(&[], std::slice::from_ref(&up)), [format!("+sentinel {words}")]);
        assert_eq!(
            between(std::slice::from_ref(&up), std::slice::from_ref(&down)),
            [format!("+sdown {words}")]
        );
        assert_eq!(
            between(std::slice::from_ref(&down), std::slice::from_ref(&up)),
            [format!("-sdown {words}")]
        );
        assert_eq!(between(std::slice::from_ref(&up), std::slice::from_ref(&up)), [""; 0]);
    }
}
