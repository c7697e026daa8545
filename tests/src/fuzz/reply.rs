//! What a Redis server, or whatever answers in its place, replies.

use bytes::{Bytes, BytesMut};
use wire::{InfoReply, Reply, Role, take_reply};

use super::Dice;

/// Small, so that inputs get beyond it.
const LIMIT: usize = 2000;

/// The first byte says in which pieces the others come.
pub fn check(data: &[u8]) {
    let mut dice = Dice(data);
    let piece = 1 + dice.below(64);
    let data = dice.0;
    let (replies, end) = read(data, data.len().max(1));
    assert_eq!(read(data, piece), (replies.clone(), end), "in pieces of {piece}");
    for reply in &replies {
        let mut written = BytesMut::new();
        write(reply, &mut written);
        assert_eq!(reference(&written), Some((reply.clone(), written.len())));
        assert_eq!(take_reply(&mut written, usize::MAX / 2), Ok(Some(reply.clone())));
        reports(reply);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Half,
    Garbage,
}

/// Every reply, and what is behind the last one.
fn read(data: &[u8], piece: usize) -> (Vec<Reply>, End) {
    let (mut buffer, mut replies) = (BytesMut::new(), Vec::new());
    for piece in data.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            let before = buffer.clone();
            match take_reply(&mut buffer, LIMIT) {
                Ok(Some(reply)) => {
                    let taken = before.len() - buffer.len();
                    assert!(0 < taken && taken <= LIMIT, "{taken} bytes");
                    assert_eq!(reference(&before), Some((reply.clone(), taken)));
                    replies.push(reply);
                }
                Ok(None) => {
                    assert_eq!(before, buffer);
                    assert!(buffer.len() <= LIMIT, "waits for the end of {} bytes", buffer.len());
                    break;
                }
                Err(_) => return (replies, End::Garbage),
            }
        }
    }
    (replies, End::Half)
}

/// The first reply and its length, read in the plainest way.
fn reference(bytes: &[u8]) -> Option<(Reply, usize)> {
    let end = bytes.windows(2).position(|two| two == b"\r\n")?;
    let (kind, text) = bytes[..end].split_first()?;
    let (text, mut at) = (Bytes::copy_from_slice(text), end + 2);
    let number = || std::str::from_utf8(&text).ok()?.parse::<i64>().ok();
    let reply = match kind {
        b'+' => Reply::Status(text),
        b'-' => Reply::Error(String::from_utf8_lossy(&text).into_owned()),
        b':' => Reply::Int(number()?),
        b'$' | b'*' if number()? == -1 => Reply::Nil,
        b'$' => {
            let end = at.checked_add(usize::try_from(number()?).ok()?)?;
            let value = Bytes::copy_from_slice(bytes.get(at..end)?);
            assert_eq!(bytes.get(end..end + 2)?, b"\r\n", "a value ends where it says");
            at = end + 2;
            Reply::Bulk(value)
        }
        b'*' => {
            let mut parts = Vec::new();
            for _ in 0..number()? {
                let (part, taken) = reference(&bytes[at..])?;
                parts.push(part);
                at += taken;
            }
            Reply::Array(parts)
        }
        _ => return None,
    };
    Some((reply, at))
}

fn write(reply: &Reply, out: &mut BytesMut) {
    let line = |out: &mut BytesMut, kind: char, rest: &str| {
        out.extend_from_slice(format!("{kind}{rest}\r\n").as_bytes());
    };
    match reply {
        Reply::Nil => line(out, '$', "-1"),
        Reply::Int(number) => line(out, ':', &number.to_string()),
        Reply::Error(text) => line(out, '-', text),
        Reply::Status(text) => out.extend_from_slice(&[b"+", &text[..], b"\r\n"].concat()),
        Reply::Bulk(value) => {
            line(out, '$', &value.len().to_string());
            out.extend_from_slice(&[&value[..], b"\r\n"].concat());
        }
        Reply::Array(parts) => {
            line(out, '*', &parts.len().to_string());
            parts.iter().for_each(|part| write(part, out));
        }
    }
}

/// The same bytes as a report of the server about itself.
fn reports(reply: &Reply) {
    let _ = Role::from_reply(reply);
    if let Some(info) = InfoReply::from_reply(reply) {
        for (name, _) in info.section("Replication") {
            assert!(info.field(name).is_some(), "{name:?}");
        }
    }
}
