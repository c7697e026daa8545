//! From a question and the facts to an answer.
//!
//! ```text
//!   ZONE                                     SOA, NS
//!     SERVICE                                there, but holds nothing
//!       primary, replica                     A, AAAA, SRV, TXT
//!         _tcp                               there, but holds nothing
//!           _redis                           SRV
//!     ip                                     there, but holds nothing
//!       10-0-0-1, 2001-db8-0-0-0-0-0-1       A or AAAA: the address that the name says
//! ```
//!
//! Names below `ip` are what SRV points to, for it has to be a name. They need no facts, so they are never out of date.
//! A server whose address is a host name is given as CNAME where an address is asked for: of several one at a time, in
//! turn, for a name has one CNAME at the most.

use std::net::{IpAddr, Ipv6Addr};

use failover::Time;
use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, HINFO, NS, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use topology::Endpoint;

use super::settings::{Host, Settings};
use crate::discovery::facts::{Facts, Service};

#[cfg(test)]
mod tests;

/// A string of a TXT record is so long at the most.
const TEXT_MAX: usize = 255;

/// What is answered.
#[derive(Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) code: ResponseCode,
    pub(super) answers: Vec<Record>,
    /// The SOA where there is nothing to be answered, which says for how long that may be remembered.
    pub(super) authorities: Vec<Record>,
    /// Addresses of what the answers point to.
    pub(super) additionals: Vec<Record>,
    /// The name of a service that belongs to several, for DNS knows no case.
    pub(super) ambiguous: Option<String>,
}

impl Answer {
    /// No more than a code.
    pub(super) fn of(code: ResponseCode) -> Self {
        Self { code, answers: Vec::new(), authorities: Vec::new(), additionals: Vec::new(), ambiguous: None }
    }

    fn with(answers: Vec<Record>) -> Self {
        Self { answers, ..Self::of(ResponseCode::NoError) }
    }
}

/// The zone.
#[derive(Debug, Clone)]
pub(super) struct Zone {
    name: Name,
    /// Seconds.
    ttl: u32,
    /// The server itself.
    server: Host,
}

/// What a name in the zone stands for.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Apex,
    /// Names below it exist.
    Between,
    Address(IpAddr),
    /// Of the service with this name, in small letters.
    Service(Vec<u8>, Part),
    Nowhere,
}

/// The names of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Names below it exist.
    Between,
    Servers(Role),
    /// The name of RFC 2782, which holds SRV only.
    Named(Role),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Primary,
    Replica,
}

impl Role {
    fn of(label: &[u8]) -> Option<Self> {
        match label {
            b"primary" => Some(Self::Primary),
            b"replica" => Some(Self::Replica),
            _ => None,
        }
    }
}

impl Zone {
    pub(super) fn new(settings: &Settings) -> Self {
        Self { name: settings.zone.0.clone(), ttl: settings.ttl, server: settings.host.clone() }
    }

    /// The answer at this moment. Of several servers another one comes first at every `turn`.
    pub(super) fn answer(&self, question: &Query, facts: &Facts, turn: u16, now: Time) -> Answer {
        let (name, asked) = (question.name(), question.query_type());
        if !self.name.zone_of(name) || matches!(asked, RecordType::AXFR | RecordType::IXFR) {
            return Answer::of(ResponseCode::Refused);
        }
        match self.place(name) {
            Place::Apex => self.apex(name, asked),
            Place::Between => self.nothing(ResponseCode::NoError),
            Place::Address(ip) => {
                let record = self.record(name, ip.into());
                self.only(name, asked, [record].into())
            }
            Place::Service(label, part) => self.service(question, &label, part, facts, turn, now),
            Place::Nowhere => self.nothing(ResponseCode::NXDomain),
        }
    }

    fn place(&self, name: &Name) -> Place {
        let lower: Vec<Vec<u8>> = name.iter().map(<[u8]>::to_ascii_lowercase).collect();
        let below: Vec<&[u8]> =
            lower.iter().take(lower.len() - self.name.iter().count()).map(Vec::as_slice).collect();
        let service = |label: &[u8], part| Place::Service(label.to_vec(), part);
        let of_role = |role, label, part: fn(Role) -> Part| {
            Role::of(role).map_or(Place::Nowhere, |role| service(label, part(role)))
        };
        match below[..] {
            [] => Place::Apex,
            [b"ip"] => Place::Between,
            [label] => service(label, Part::Between),
            [first, second] => match address(first).filter(|_| second == b"ip") {
                Some(ip) => Place::Address(ip),
                None => of_role(first, second, Part::Servers),
            },
            [b"_tcp", role, label] => of_role(role, label, |_| Part::Between),
            [b"_redis", b"_tcp", role, label] => of_role(role, label, Part::Named),
            _ => Place::Nowhere,
        }
    }

    fn apex(&self, name: &Name, asked: RecordType) -> Answer {
        let server = self.name_of(&self.server);
        let records = [self.record(name, RData::NS(NS(server))), self.soa(name)];
        let answer = self.only(name, asked, records.into());
        let additionals = if asked == RecordType::NS { self.addresses(&[&self.server]) } else { Vec::new() };
        Answer { additionals, ..answer }
    }

    fn service(
        &self,
        question: &Query,
        label: &[u8],
        part: Part,
        facts: &Facts,
        turn: u16,
        now: Time,
    ) -> Answer {
        let mut called =
            facts.services.iter().filter(|(name, _)| name.as_bytes().eq_ignore_ascii_case(label));
        let fresh = facts.are_fresh(now);
        let service = match (called.next(), called.next()) {
            // Not read yet, or it may have come while this process stood still.
            (None, _) if !facts.listed || !fresh => return Answer::of(ResponseCode::ServFail),
            (None, _) => return self.nothing(ResponseCode::NXDomain),
            (Some((name, _)), Some(_)) => {
                let ambiguous = Some(name.to_ascii_lowercase());
                return Answer { ambiguous, ..Answer::of(ResponseCode::ServFail) };
            }
            (Some((_, service)), None) => service,
        };
        let role = match part {
            Part::Between => return self.nothing(ResponseCode::NoError),
            Part::Servers(role) | Part::Named(role) => role,
        };
        let Some(mut servers) = servers(service, role).filter(|_| fresh) else {
            return Answer::of(ResponseCode::ServFail);
        };
        let first = usize::from(turn).checked_rem(servers.len()).unwrap_or_default();
        servers.rotate_left(first);
        match part {
            Part::Named(_) => self.locations(question, &servers),
            Part::Between | Part::Servers(_) => self.servers(question, service, role, &servers),
        }
    }

    /// `primary.SERVICE` and `replica.SERVICE`.
    fn servers(&self, question: &Query, service: &Service, role: Role, servers: &[&Endpoint]) -> Answer {
        let (name, asked) = (question.name(), question.query_type());
        let hosts: Vec<Host> = servers.iter().filter_map(|addr| Host::of(addr)).collect();
        if asked == RecordType::SRV {
            return self.locations(question, servers);
        }
        if asked == RecordType::TXT {
            return Answer::with(vec![self.record(name, text(service, role, servers))]);
        }
        let mut addresses = Vec::new();
        for host in &hosts {
            match host {
                Host::Ip(ip) if !addresses.contains(ip) => addresses.push(*ip),
                Host::Ip(_) | Host::Name(_) => {}
            }
        }
        match &hosts[..] {
            // Whatever else is asked for has to be looked for there.
            [Host::Name(first), ..] if addresses.is_empty() => {
                Answer::with(vec![self.record(name, RData::CNAME(CNAME(first.clone())))])
            }
            _ => {
                self.only(name, asked, addresses.into_iter().map(|ip| self.record(name, ip.into())).collect())
            }
        }
    }

    /// SRV for each server, and the addresses of those that have one.
    fn locations(&self, question: &Query, servers: &[&Endpoint]) -> Answer {
        let name = question.name();
        let hosts: Vec<(Host, u16)> =
            servers.iter().filter_map(|addr| Some((Host::of(addr)?, addr.port()))).collect();
        let record = |(host, port): &(Host, u16)| {
            self.record(name, RData::SRV(SRV::new(0, 1, *port, self.name_of(host))))
        };
        let answer = self.only(name, question.query_type(), hosts.iter().map(record).collect());
        let additionals = match answer.answers.first() {
            Some(record) if record.record_type() == RecordType::SRV => {
                self.addresses(&hosts.iter().map(|(host, _)| host).collect::<Vec<_>>())
            }
            Some(_) | None => Vec::new(),
        };
        Answer { additionals, ..answer }
    }

    /// What is asked for of all that a name holds. Whoever asks for everything (ANY) is told no more than that it is there
    /// (RFC 8482).
    fn only(&self, name: &Name, asked: RecordType, mut all: Vec<Record>) -> Answer {
        if asked == RecordType::ANY && !all.is_empty() {
            let hint = RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new()));
            return Answer::with(vec![self.record(name, hint)]);
        }
        all.retain(|record| record.record_type() == asked);
        match all.is_empty() {
            true => self.nothing(ResponseCode::NoError),
            false => Answer::with(all),
        }
    }

    fn nothing(&self, code: ResponseCode) -> Answer {
        Answer { authorities: vec![self.soa(&self.name)], ..Answer::of(code) }
    }

    /// Nobody copies this zone, so nobody needs its serial number and its intervals.
    fn soa(&self, name: &Name) -> Record {
        let mailbox = self.name.prepend_label("hostmaster").unwrap_or_else(|_| self.name.clone());
        let server = self.name_of(&self.server);
        self.record(name, RData::SOA(SOA::new(server, mailbox, 1, 3600, 600, 86_400, self.ttl)))
    }

    /// What others call this host.
    fn name_of(&self, host: &Host) -> Name {
        match host {
            Host::Name(name) => name.clone(),
            Host::Ip(ip) => {
                let below = self.name.prepend_label("ip").and_then(|below| below.prepend_label(label(*ip)));
                below.unwrap_or_else(|_| self.name.clone()) // a zone is short enough
            }
        }
    }

    /// The addresses of these hosts, each once.
    fn addresses(&self, hosts: &[&Host]) -> Vec<Record> {
        let mut records: Vec<Record> = Vec::new();
        for host in hosts {
            if let Host::Ip(ip) = host {
                let record = self.record(&self.name_of(host), (*ip).into());
                if !records.contains(&record) {
                    records.push(record);
                }
            }
        }
        records
    }

    fn record(&self, name: &Name, data: RData) -> Record {
        Record::from_rdata(name.clone(), self.ttl, data)
    }
}

/// The servers of a role; none at all unless the record is certain, whatever the role.
fn servers(service: &Service, role: Role) -> Option<Vec<&Endpoint>> {
    let primary = service.primary()?;
    let replicas = service.replicas.iter().filter(|replica| replica.usable && replica.follows);
    Some(match role {
        Role::Primary => vec![&primary.addr],
        Role::Replica => replicas.map(|replica| &replica.addr).collect(),
    })
}

/// What has no place in an address: under which epoch it holds.
fn text(service: &Service, role: Role, servers: &[&Endpoint]) -> RData {
    let word = match role {
        Role::Primary => "primary",
        Role::Replica => "replica",
    };
    let servers = servers.iter().map(|addr| format!("{word}={addr}"));
    let strings = [format!("epoch={}", service.epoch)].into_iter().chain(servers);
    RData::TXT(TXT::new(strings.filter(|string| string.len() <= TEXT_MAX).collect()))
}

/// The label below `ip` of an address: its numbers, with `-` between them.
fn label(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string().replace('.', "-"),
        IpAddr::V6(ip) => ip.segments().map(|segment| format!("{segment:x}")).join("-"),
    }
}

/// The address of a label below `ip`, if it is written as [`label`] does.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?;
    let ip = match text.matches('-').count() {
        3 => IpAddr::V4(text.replace('-', ".").parse().ok()?),
        7 => IpAddr::V6(text.replace('-', ":").parse::<Ipv6Addr>().ok()?),
        _ => return None,
    };
    (label(ip) == text).then_some(ip)
}
