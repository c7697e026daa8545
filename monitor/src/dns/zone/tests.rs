//! Every name and every type that can be asked for, as a table.

use super::*;
use crate::discovery::facts::examples::{changed, facts, service};

const NOW: Time = Time::from_secs(10);
const SOA: &str = "albireo.internal. SOA 10-0-0-9.ip.albireo.internal. hostmaster.albireo.internal. \
    1 3600 600 86400 5";

fn zone() -> Zone {
    let host = Host::Ip("10.0.0.9".parse().unwrap());
    let settings = Settings {
        listen: "10.0.0.9:53".parse().unwrap(),
        zone: "albireo.internal".parse().unwrap(),
        ttl: 5,
        host,
    };
    Zone::new(&settings)
}

/// Below the zone, unless it ends with a dot.
fn name(text: &str) -> Name {
    let whole = match text {
        "" => "albireo.internal.".to_owned(),
        _ if text.ends_with('.') => text.to_owned(),
        _ => format!("{text}.albireo.internal."),
    };
    Name::from_ascii(whole).unwrap()
}

fn asked(facts: &Facts, what: &str, turn: u16) -> Answer {
    let (at, of) = what.rsplit_once(' ').unwrap_or(("", what));
    let kind = of.parse().unwrap_or(RecordType::IXFR); // the only one that cannot be read
    zone().answer(&Query::query(name(at), kind), facts, turn, NOW)
}

fn shown(records: &[Record]) -> String {
    let one = |record: &Record| {
        assert_eq!(record.ttl, 5, "{record}");
        format!("{} {} {}", record.name, record.record_type(), record.data)
    };
    records.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// `CODE`, the answers, and after `+` what else was told.
fn ask(facts: &Facts, what: &str) -> String {
    let answer = asked(facts, what, 0);
    let mut text = format!("{:?}", answer.code);
    for (sign, records) in [(":", &answer.answers), (" -", &answer.authorities), (" +", &answer.additionals)]
    {
        if !records.is_empty() {
            text += &format!("{sign} {}", shown(records));
        }
    }
    text.replace(SOA, "SOA").replace(".albireo.internal.", "")
}

fn check(facts: &Facts, rows: &[(&str, &str)]) {
    for (question, expected) in rows {
        assert_eq!(ask(facts, question), *expected, "{question}");
    }
}

fn on(facts: &mut Facts) -> &mut Service {
    changed(facts, "posts")
}

#[test]
fn all_is_well() {
    check(
        &facts(),
        &[
            ("primary.posts A", "NoError: primary.posts A 10.0.0.1"),
            ("primary.posts AAAA", "NoError - SOA"),
            ("primary.posts SRV", "NoError: primary.posts SRV 0 1 6379 10-0-0-1.ip + 10-0-0-1.ip A 10.0.0.1"),
            ("primary.posts TXT", "NoError: primary.posts TXT epoch=7primary=10.0.0.1:6379"),
            ("primary.posts CNAME", "NoError - SOA"),
            ("primary.posts MX", "NoError - SOA"),
            ("primary.posts ANY", "NoError: primary.posts HINFO RFC8482 "),
            ("replica.posts A", "NoError: replica.posts A 10.0.0.1"),
            (
                "replica.posts SRV",
                "NoError: replica.posts SRV 0 1 6380 10-0-0-1.ip, replica.posts SRV 0 1 6381 10-0-0-1.ip \
                 + 10-0-0-1.ip A 10.0.0.1",
            ),
            (
                "_redis._tcp.primary.posts SRV",
                "NoError: _redis._tcp.primary.posts SRV 0 1 6379 10-0-0-1.ip + 10-0-0-1.ip A 10.0.0.1",
            ),
            ("_redis._tcp.primary.posts A", "NoError - SOA"),
            ("_redis._tcp.primary.posts ANY", "NoError: _redis._tcp.primary.posts HINFO RFC8482 "),
            ("10-0-0-1.ip A", "NoError: 10-0-0-1.ip A 10.0.0.1"),
            ("10-0-0-1.ip AAAA", "NoError - SOA"),
            ("2001-db8-0-0-0-0-0-1.ip AAAA", "NoError: 2001-db8-0-0-0-0-0-1.ip AAAA 2001:db8::1"),
            ("NS", "NoError: albireo.internal. NS 10-0-0-9.ip + 10-0-0-9.ip A 10.0.0.9"),
            ("SOA", "NoError: SOA"),
            ("ANY", "NoError: albireo.internal. HINFO RFC8482 "),
            ("A", "NoError - SOA"),
        ],
    );
}

#[test]
fn names_that_exist_and_names_that_do_not() {
    let (there, not) = ("NoError - SOA", "NXDomain - SOA");
    for (name, expected) in [
        ("posts", there),
        ("ip", there),
        ("_tcp.primary.posts", there),
        ("_tcp.replica.posts", there),
        ("other", not),
        ("primary", not),
        ("primary.other", not),
        ("replica.other", not),
        ("_redis._tcp.primary.other", not),
        ("master.posts", not),
        ("x.primary.posts", not),
        ("_udp.primary.posts", not),
        ("_redis._tcp.posts", not),
        ("_redis._udp.primary.posts", not),
        ("x._redis._tcp.primary.posts", not),
        ("primary.posts.x", not),
        ("x.ip", not),
        ("10-0-0-256.ip", not),
        ("10-0-0-01.ip", not),
        ("10-0-0.ip", not),
        ("2001-db8--1.ip", not),
        ("02001-db8-0-0-0-0-0-1.ip", not),
        ("x.10-0-0-1.ip", not),
        ("*.posts", not),
        ("primary.*", not),
    ] {
        for kind in ["A", "AAAA", "ANY", "TXT", "NS", "SOA"] {
            assert_eq!(ask(&facts(), &format!("{name} {kind}")), expected, "{name} {kind}");
        }
    }
    for outside in ["example.", ".", "internal.", "xalbireo.internal.", "primary.posts.albireo.example."] {
        assert_eq!(ask(&facts(), &format!("{outside} A")), "Refused", "{outside}");
    }
    for copy in ["AXFR", "IXFR", "primary.posts AXFR"] {
        assert_eq!(ask(&facts(), copy), "Refused");
    }
}

#[test]
fn case_means_nothing_and_stays_as_it_was_asked() {
    check(
        &facts(),
        &[
            ("pRimary.POSTS.alBIREO.internal. A", "NoError: pRimary.POSTS.alBIREO.internal. A 10.0.0.1"),
            ("10-0-0-1.IP A", "NoError: 10-0-0-1.IP A 10.0.0.1"),
            ("2001-DB8-0-0-0-0-0-1.ip AAAA", "NoError: 2001-DB8-0-0-0-0-0-1.ip AAAA 2001:db8::1"),
        ],
    );
    let mut facts = facts();
    facts.services.insert("Posts".to_owned(), service(&[7379]).into());
    let answer = asked(&facts, "primary.posts A", 0);
    assert_eq!((answer.code, answer.ambiguous.as_deref()), (ResponseCode::ServFail, Some("posts")));
    facts.services.remove("posts");
    assert!(ask(&facts, "primary.posts SRV").contains("7379"));
}

#[test]
fn a_service_may_have_any_name_that_a_label_can_carry() {
    let (dotted, spaced) = ("po.sts", "häuser und\u{1f3e0}");
    let mut facts = facts();
    for name in [dotted, spaced, "ip"] {
        facts.services.insert(name.to_owned(), service(&[7379]).into());
    }
    for service in [dotted, spaced, "ip"] {
        let below = Name::from_ascii("albireo.internal.").unwrap();
        let name = below.prepend_label(service.as_bytes()).unwrap().prepend_label("primary").unwrap();
        let answer = zone().answer(&Query::query(name, RecordType::A), &facts, 0, NOW);
        assert_eq!(answer.answers.len(), 1, "{service}");
    }
    assert_eq!(ask(&facts, "ip A"), "NoError - SOA");
    assert_eq!(ask(&facts, "sts A"), "NXDomain - SOA");
}

#[test]
fn without_certainty_it_names_nobody() {
    let stale = Facts { turned: Time::from_secs(9), ..facts() };
    let change = |change: fn(&mut Service)| {
        let mut facts = facts();
        change(on(&mut facts));
        facts
    };
    let uncertain = [
        stale,
        change(|service| service.known = false),
        change(|service| service.master = None),
        change(|service| service.master.as_mut().unwrap().in_progress = true),
        change(|service| service.master.as_mut().unwrap().contradicted = true),
    ];
    for facts in &uncertain {
        for name in ["primary.posts", "replica.posts", "_redis._tcp.primary.posts"] {
            for kind in ["A", "AAAA", "SRV", "TXT", "ANY", "MX"] {
                assert_eq!(ask(facts, &format!("{name} {kind}")), "ServFail", "{name} {kind}");
            }
        }
        check(facts, &[("posts A", "NoError - SOA"), ("10-0-0-1.ip A", "NoError: 10-0-0-1.ip A 10.0.0.1")]);
    }
    assert_eq!(ask(&uncertain[0], "primary.other A"), "ServFail", "it may have come meanwhile");
    assert_eq!(ask(&uncertain[1], "primary.other A"), "NXDomain - SOA");
    let unread = Facts { listed: false, ..facts() };
    let known = "NoError: primary.posts A 10.0.0.1";
    check(&unread, &[("primary.other A", "ServFail"), ("other A", "ServFail"), ("primary.posts A", known)]);
}

#[test]
fn a_dead_primary_is_named_until_another_one_is_recorded() {
    let mut facts = facts();
    let master = on(&mut facts).master.as_mut().unwrap();
    (master.s_down, master.o_down, master.disconnected) = (true, true, true);
    assert_eq!(ask(&facts, "primary.posts A"), "NoError: primary.posts A 10.0.0.1");
}

#[test]
fn replicas_are_those_that_can_be_read_and_follow() {
    let ports = |facts: &Facts, turn| {
        let port = |record: &Record| {
            let RData::SRV(srv) = &record.data else { panic!("{record}") };
            srv.port
        };
        asked(facts, "replica.posts SRV", turn).answers.iter().map(port).collect::<Vec<_>>()
    };
    let mut facts = facts();
    on(&mut facts).replicas[0].priority = 0;
    assert_eq!(ports(&facts, 0), [6380, 6381], "never promoted, yet readable");
    assert_eq!(ports(&facts, 1), [6381, 6380], "in turn");
    assert_eq!(ports(&facts, 65_534), [6380, 6381]);
    on(&mut facts).replicas[0].usable = false;
    assert_eq!(ports(&facts, 0), [6381]);
    on(&mut facts).replicas[1].follows = false;
    check(
        &facts,
        &[
            ("replica.posts SRV", "NoError - SOA"),
            ("replica.posts A", "NoError - SOA"),
            ("replica.posts ANY", "NoError - SOA"),
            ("replica.posts TXT", "NoError: replica.posts TXT epoch=7"),
            ("_redis._tcp.replica.posts SRV", "NoError - SOA"),
            ("primary.posts A", "NoError: primary.posts A 10.0.0.1"),
        ],
    );
}

#[test]
fn servers_at_names_and_at_addresses_of_both_kinds() {
    let mut facts = facts();
    let service = on(&mut facts);
    service.master.as_mut().unwrap().addr = "redis-a.example:6379".parse().unwrap();
    service.replicas[0].addr = "[2001:db8::1]:6380".parse().unwrap();
    check(
        &facts,
        &[
            ("primary.posts A", "NoError: primary.posts CNAME redis-a.example."),
            ("primary.posts AAAA", "NoError: primary.posts CNAME redis-a.example."),
            ("primary.posts CNAME", "NoError: primary.posts CNAME redis-a.example."),
            ("primary.posts MX", "NoError: primary.posts CNAME redis-a.example."),
            ("primary.posts SRV", "NoError: primary.posts SRV 0 1 6379 redis-a.example."),
            ("primary.posts TXT", "NoError: primary.posts TXT epoch=7primary=redis-a.example:6379"),
            ("replica.posts A", "NoError: replica.posts A 10.0.0.1"),
            ("replica.posts AAAA", "NoError: replica.posts AAAA 2001:db8::1"),
            (
                "replica.posts SRV",
                "NoError: replica.posts SRV 0 1 6380 2001-db8-0-0-0-0-0-1.ip, \
                 replica.posts SRV 0 1 6381 10-0-0-1.ip + 2001-db8-0-0-0-0-0-1.ip AAAA 2001:db8::1, \
                 10-0-0-1.ip A 10.0.0.1",
            ),
        ],
    );
    on(&mut facts).replicas[0].addr = "redis-b.example:6379".parse().unwrap();
    assert_eq!(ask(&facts, "replica.posts A"), "NoError: replica.posts A 10.0.0.1", "no CNAME beside it");
    on(&mut facts).replicas[1].addr = "redis-c.example:6379".parse().unwrap();
    let one = |turn| shown(&asked(&facts, "replica.posts AAAA", turn).answers);
    assert!(one(0).ends_with(" CNAME redis-b.example."), "{}", one(0));
    assert!(one(1).ends_with(" CNAME redis-c.example."), "{}", one(1));
}

#[test]
fn a_server_that_has_a_name_is_named_by_it() {
    let host = Host::of(&"ns1.example:53".parse().unwrap()).unwrap();
    let zone = Zone { server: host, ..zone() };
    let answer = zone.answer(&Query::query(name(""), RecordType::NS), &facts(), 0, NOW);
    assert_eq!(shown(&answer.answers), "albireo.internal. NS ns1.example.");
    assert!(answer.additionals.is_empty());
}
