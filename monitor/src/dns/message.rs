//! From the bytes of a question to the bytes of a reply: what DNS itself asks for, whatever the zone holds. No bytes
//! from outside do more than get an error or nothing.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::DNSClass;

use super::zone::Answer;

/// A reply over UDP, where the client says that it takes so much. Such a packet is not cut into pieces anywhere.
pub(super) const UDP_MAX: u16 = 1232;
/// The same for a client that says nothing.
const PLAIN_MAX: u16 = 512;

/// The length of what stands before the question.
const HEADER: usize = 12;
/// The only version of EDNS.
const EDNS_VERSION: u8 = 0;

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    Udp,
    Tcp,
}

/// A reply.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) bytes: Vec<u8>,
    pub(super) code: ResponseCode,
}

/// The reply to `bytes`; none to what is no question, or two servers might answer each other for ever. `answer` gets the
/// question and the number of the message.
pub(super) fn reply(bytes: &[u8], over: Over, answer: impl FnOnce(&Query, u16) -> Answer) -> Option<Reply> {
    let header: &[u8; HEADER] = bytes.first_chunk()?;
    if header[2] & 0x80 != 0 {
        return None;
    }
    if header[2] & 0x78 != 0 {
        return Some(bare(header, ResponseCode::NotImp)); // any operation but a query
    }
    if header[4..6] != [0, 1] {
        return Some(bare(header, ResponseCode::FormErr)); // one question; that many are not even read
    }
    let Ok(asked) = Message::from_vec(bytes) else {
        return Some(bare(header, ResponseCode::FormErr));
    };
    let Some(question) = asked.queries.first() else { return Some(bare(header, ResponseCode::FormErr)) };
    let answer = match &asked.edns {
        Some(edns) if edns.version() > EDNS_VERSION => Answer::of(ResponseCode::BADVERS),
        _ if !matches!(question.query_class(), DNSClass::IN | DNSClass::ANY) => {
            Answer::of(ResponseCode::Refused)
        }
        _ => answer(question, asked.metadata.id),
    };
    let limit = match over {
        Over::Udp => {
            asked.edns.as_ref().map_or(PLAIN_MAX, |edns| edns.max_payload().clamp(PLAIN_MAX, UDP_MAX))
        }
        Over::Tcp => u16::MAX,
    };
    let code = answer.code;
    let bytes = encode(compose(&asked, answer), usize::from(limit));
    Some(bytes.map_or_else(|| bare(header, ResponseCode::ServFail), |bytes| Reply { bytes, code }))
}

/// No more than the header.
fn bare(asked: &[u8; HEADER], code: ResponseCode) -> Reply {
    let mut bytes = vec![0; HEADER];
    bytes[..2].copy_from_slice(&asked[..2]);
    bytes[2] = 0x80 | asked[2] & 0x79; // a response; operation and RD as they were
    bytes[3] = code.low();
    Reply { bytes, code }
}

fn compose(asked: &Message, answer: Answer) -> Message {
    let mut reply = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata.recursion_desired = asked.metadata.recursion_desired;
    reply.metadata.authoritative = matches!(answer.code, ResponseCode::NoError | ResponseCode::NXDomain);
    reply.metadata.response_code = answer.code;
    // As it came, in the very case of its letters.
    reply.queries = asked.queries.clone();
    (reply.answers, reply.authorities) = (answer.answers, answer.authorities);
    reply.additionals = answer.additionals;
    reply.edns = asked.edns.as_ref().map(|_| {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_MAX).set_version(EDNS_VERSION);
        edns
    });
    reply
}

/// What does not fit is left out: first what was not asked for, then everything, and the client asks over TCP.
fn encode(mut reply: Message, limit: usize) -> Option<Vec<u8>> {
    let fits = |reply: &Message| reply.to_vec().ok().filter(|bytes| bytes.len() <= limit);
    if let Some(bytes) = fits(&reply) {
        return Some(bytes);
    }
    reply.additionals.clear();
    if let Some(bytes) = fits(&reply) {
        return Some(bytes);
    }
    reply.answers.clear();
    reply.authorities.clear();
    reply.metadata.truncation = true;
    fits(&reply)
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{Name, Record, RecordType};

    use super::*;

    fn question(name: &str) -> Message {
        let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        message
    }

    /// So many addresses, and as many beside them.
    fn addresses(query: &Query, answers: u8, additionals: u8) -> Answer {
        let record = |last| {
            Record::from_rdata(query.name().clone(), 0, std::net::Ipv4Addr::new(10, 0, 0, last).into())
        };
        let mut answer = Answer::of(ResponseCode::NoError);
        answer.answers = (0..answers).map(record).collect();
        answer.additionals = (0..additionals).map(record).collect();
        answer
    }

    fn told(message: &Message, over: Over, answer: impl FnOnce(&Query, u16) -> Answer) -> Message {
        let reply = reply(&message.to_vec().unwrap(), over, answer).unwrap();
        let told = Message::from_vec(&reply.bytes).unwrap();
        // The library reads 16 as BADSIG.
        assert_eq!(u16::from(told.metadata.response_code), u16::from(reply.code));
        told
    }

    fn with_edns(mut message: Message, payload: u16, version: u8) -> Message {
        let mut edns = Edns::new();
        edns.set_max_payload(payload).set_version(version);
        message.set_edns(edns);
        message
    }

    #[test]
    fn the_header_and_the_question_come_back() {
        let asked = question("pRiMaRy.PoStS.example.");
        let told = told(&asked, Over::Udp, |query, turn| {
            assert_eq!(turn, 4711);
            addresses(query, 1, 0)
        });
        let header = told.metadata;
        assert_eq!((header.id, header.message_type), (4711, MessageType::Response));
        assert!(header.authoritative && header.recursion_desired);
        assert!(!header.recursion_available && !header.truncation && !header.authentic_data);
        assert!(told.queries[0].name().eq_case(asked.queries[0].name()));
        assert!(told.answers[0].name.eq_case(asked.queries[0].name()));
        assert_eq!((told.answers.len(), told.edns), (1, None));
    }

    #[test]
    fn only_what_is_certain_is_authoritative() {
        for (code, authoritative) in
            [(ResponseCode::NXDomain, true), (ResponseCode::ServFail, false), (ResponseCode::Refused, false)]
        {
            let told = told(&question("a."), Over::Tcp, |_, _| Answer::of(code));
            assert_eq!((told.metadata.response_code, told.metadata.authoritative), (code, authoritative));
        }
    }

    #[test]
    fn what_does_not_fit_is_asked_for_over_tcp() {
        let plain = question("a.example.");
        for (asked, over, answers, additionals, kept, left, cut) in [
            (plain.clone(), Over::Udp, 10, 10, 10, 10, false),
            (plain.clone(), Over::Udp, 30, 30, 30, 0, false),
            (plain.clone(), Over::Udp, 31, 0, 0, 0, true),
            (plain.clone(), Over::Tcp, 255, 255, 255, 255, false),
            (with_edns(plain.clone(), 100, 0), Over::Udp, 29, 0, 29, 0, false),
            (with_edns(plain.clone(), 1000, 0), Over::Udp, 60, 0, 60, 0, false),
            (with_edns(plain.clone(), 1000, 0), Over::Udp, 60, 10, 60, 0, false),
            (with_edns(plain.clone(), 1000, 0), Over::Udp, 62, 0, 0, 0, true),
            (with_edns(plain.clone(), 65_000, 0), Over::Udp, 74, 0, 74, 0, false),
            (with_edns(plain, 65_000, 0), Over::Udp, 75, 0, 0, 0, true),
        ] {
            let told = told(&asked, over, |query, _| addresses(query, answers, additionals));
            let lengths = (told.answers.len(), told.additionals.len(), told.metadata.truncation);
            assert_eq!(lengths, (kept, left, cut), "{answers} and {additionals} over {over:?}");
            assert_eq!(told.edns.is_some(), asked.edns.is_some());
            assert_eq!(told.edns.map_or(UDP_MAX, |edns| edns.max_payload()), UDP_MAX);
        }
    }

    #[test]
    fn what_is_refused_before_anything_is_looked_up() {
        let never = |_: &Query, _| panic!("not looked up");
        let bytes = question("a.example.").to_vec().unwrap();
        let code = |change: fn(&mut Vec<u8>)| {
            let mut bytes = bytes.clone();
            change(&mut bytes);
            let reply = reply(&bytes, Over::Udp, never)?;
            assert_eq!(reply.bytes[..2], bytes[..2]);
            assert_eq!(reply.bytes[2] & 0xfe, 0x80 | bytes[2] & 0x78, "a response, neither AA nor TC");
            assert!(reply.bytes.len() <= bytes.len() + 11, "{}", reply.bytes.len());
            Some(reply.code)
        };
        assert_eq!(code(Vec::clear), None);
        assert_eq!(code(|bytes| bytes.truncate(11)), None);
        assert_eq!(code(|bytes| bytes[2] |= 0x80), None, "a response");
        assert_eq!(code(|bytes| bytes.truncate(12)), Some(ResponseCode::FormErr));
        assert_eq!(code(|bytes| bytes.truncate(20)), Some(ResponseCode::FormErr));
        assert_eq!(code(|bytes| bytes[5] = 0), Some(ResponseCode::FormErr), "no question");
        assert_eq!(code(|bytes| bytes[4] = 255), Some(ResponseCode::FormErr), "many questions");
        assert_eq!(code(|bytes| bytes[7] = 1), Some(ResponseCode::FormErr), "a record that is not there");
        assert_eq!(code(|bytes| bytes[12] = 0xc0), Some(ResponseCode::FormErr), "a pointer to nowhere");
        for operation in 1..16 {
            let mut bytes = bytes.clone();
            bytes[2] |= operation << 3;
            assert_eq!(reply(&bytes, Over::Tcp, never).unwrap().code, ResponseCode::NotImp, "{operation}");
        }
        let mut chaos = question("version.bind.");
        chaos.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(told(&chaos, Over::Udp, never).metadata.response_code, ResponseCode::Refused);
        let told = told(&with_edns(question("a."), 1232, 1), Over::Udp, never);
        assert_eq!(u16::from(told.metadata.response_code), 16, "BADVERS");
        assert_eq!(told.edns.unwrap().version(), 0);
    }
}
