//! What must hold whatever comes to the DNS server.

use failover::Time;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use topology::Endpoint;

use super::message::{Over, UDP_MAX, reply};
use super::settings::{Host, Settings};
use super::zone::Zone;
use crate::discovery::facts::Facts;
use crate::discovery::facts::examples::facts;

const HEADER: usize = 12;

/// A message: with the driver awake, and with one that stood still.
pub(crate) fn check(data: &[u8]) {
    let listen: Endpoint = "[2001:db8::1]:53".parse().expect("an address");
    let zone = "z".parse().expect("a zone");
    let zone = Zone::new(&Settings { host: Host::of(&listen).expect("a host"), listen, zone, ttl: 5 });
    let mut facts = facts();
    let mut other = facts.services["posts"].as_ref().clone();
    other.master.as_mut().expect("a primary").addr = "redis-7.example:6379".parse().expect("an address");
    facts.services.insert("u".to_owned(), other.into());
    for (over, now) in [(Over::Udp, 10), (Over::Tcp, 10), (Over::Tcp, 100)] {
        one(data, over, &zone, &facts, Time::from_secs(now));
    }
}

fn one(data: &[u8], over: Over, zone: &Zone, facts: &Facts, now: Time) {
    let mut lookups = 0;
    let told = reply(data, over, |question, turn| {
        lookups += 1;
        zone.answer(question, facts, turn, now)
    });
    let Some(told) = told else {
        return assert!(data.len() < HEADER || data[2] & 0x80 != 0, "a question without an answer");
    };
    assert!(data.len() >= HEADER && data[2] & 0x80 == 0, "an answer to an answer");
    assert_eq!(told.bytes[..2], data[..2], "the number of the message");
    assert_eq!((told.bytes[2] & 0xf9, told.bytes[3] & 0xf0), (0x80 | data[2] & 0x79, 0), "the header");
    // Whoever makes us answer somebody else makes us send little more than he sends himself.
    assert!(told.bytes.len() <= if over == Over::Udp { usize::from(UDP_MAX) } else { 0xffff });
    let answer = Message::from_vec(&told.bytes).expect("the answer can be read");
    assert_eq!(answer.metadata.message_type, MessageType::Response);
    if lookups == 0 {
        assert_ne!(told.code, ResponseCode::NoError);
        assert!(answer.answers.is_empty());
        return;
    }
    let asked = Message::from_vec(data).expect("what was looked up could be read");
    assert!(over == Over::Tcp || asked.edns.is_some() || told.bytes.len() <= 512);
    assert!(answer.queries[0].name().eq_case(asked.queries[0].name()));
    assert_eq!(answer.queries, asked.queries);
    assert_eq!(answer.edns.is_some(), asked.edns.is_some());
    // Who names a server is sure of it.
    let named =
        answer.answers.iter().any(|record| record.name.num_labels() > 2 && !is_below_ip(&record.name));
    assert!(!named || facts.are_fresh(now), "{answer:?}");
}

fn is_below_ip(name: &hickory_proto::rr::Name) -> bool {
    name.iter().rev().nth(1).is_some_and(|label| label.eq_ignore_ascii_case(b"ip"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn kept_inputs() {
        world::fuzz::replay("dns", super::check);
    }
}
