//! What must hold whatever a client of the Sentinel endpoint sends.

use failover::Time;
use settings::Secret;

use super::connection::{Connection, Login, Outcome};
use super::glob;
use super::protocol::{ARGUMENTS_MAX, Parsed, QUERY_MAX, parse};
use crate::discovery::facts::examples::facts;
use crate::discovery::news::Announcement;

const PASSWORD: &str = "p4ssw0rd";
const NOW: Time = Time::from_secs(10);
/// The longest reply that does not grow with the command.
const REPLY_MAX: usize = 16 * 1024;

/// The first byte says in which pieces the others come and whether there is a password.
pub(crate) fn check(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let (commands, end) = read(data, data.len().max(1));
    let piece = 1 + usize::from(first >> 1);
    assert_eq!(read(data, piece), (commands.clone(), end), "in pieces of {piece}");
    for command in &commands {
        assert_eq!(parse(&written(command)), Parsed::Whole(command.clone(), written(command).len()));
    }
    let login = Login { username: "default".to_owned(), password: Secret::new(PASSWORD) };
    let login = (first & 1 == 1).then_some(&login);
    let knows = data.windows(PASSWORD.len()).any(|bytes| bytes == PASSWORD.as_bytes());
    converse(&commands, login, login.is_none() || knows);
}

/// Every whole command, and why there is no further one.
fn read(data: &[u8], piece: usize) -> (Vec<Vec<Vec<u8>>>, Option<&'static str>) {
    let (mut query, mut commands) = (Vec::new(), Vec::new());
    for piece in data.chunks(piece) {
        query.extend_from_slice(piece);
        loop {
            match parse(&query) {
                Parsed::Half => {
                    assert!(query.len() <= QUERY_MAX + 2, "waits for the end of {} bytes", query.len());
                    break;
                }
                Parsed::Broken(why) => return (commands, Some(why)),
                Parsed::Whole(command, used) => {
                    assert!(0 < used && used <= query.len());
                    assert!(command.len() <= ARGUMENTS_MAX && command.concat().len() < used);
                    query.drain(..used);
                    commands.push(command);
                }
            }
        }
    }
    (commands, None)
}

/// The command as an array, as libraries send it.
fn written(command: &[Vec<u8>]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", command.len()).into_bytes();
    for argument in command {
        out.extend(format!("${}\r\n", argument.len()).into_bytes());
        out.extend(argument);
        out.extend(b"\r\n");
    }
    out
}

fn converse(commands: &[Vec<Vec<u8>>], login: Option<&Login>, may_get_in: bool) {
    let (mut connection, facts) = (Connection::new(7, login), facts());
    for command in commands.iter().filter(|command| !command.is_empty()) {
        let outcome = connection.take(command, &facts, NOW);
        let (replies, closes) = match outcome {
            Outcome::Replies(replies) => (replies, false),
            Outcome::Close(reply) => (vec![reply], true),
            Outcome::Failover(name) => {
                assert!(may_get_in && facts.services.contains_key(&name), "{name}");
                continue;
            }
        };
        let mut out = Vec::new();
        replies.iter().for_each(|reply| reply.write(connection.speaks_resp3(), &mut out));
        let mut rest = &out[..];
        for _ in &replies {
            assert!(may_get_in || closes || rest.first() == Some(&b'-'), "let in without the password");
            rest = skip(rest, connection.speaks_resp3());
        }
        assert!(!replies.is_empty() && rest.is_empty(), "not what a client can read");
        let asked = written(command).len();
        assert!(out.len() <= 4 * asked + REPLY_MAX, "{} bytes for {asked}", out.len());
        if closes {
            break;
        }
    }
    heard(&connection);
}

/// However many subscriptions there are, an announcement is a bounded number of readable messages.
fn heard(connection: &Connection<'_>) {
    let news = Announcement { channel: "+switch-master", payload: "posts 10.0.0.1 1 10.0.0.1 2".to_owned() };
    let messages = connection.hears(&news);
    assert!(messages.len() <= 1024 && (messages.is_empty() || connection.subscribes()));
    for message in messages {
        let mut out = Vec::new();
        message.write(connection.speaks_resp3(), &mut out);
        assert!(skip(&out, connection.speaks_resp3()).is_empty());
    }
}

/// What is behind the first reply.
fn skip(bytes: &[u8], resp3: bool) -> &[u8] {
    let end = bytes.windows(2).position(|two| two == b"\r\n").expect("a line");
    let (line, rest) = (str::from_utf8(&bytes[1..end]), &bytes[end + 2..]);
    let number = || line.expect("a number is text").parse::<usize>().expect("a number");
    let all = |count: usize| (0..count).fold(rest, |rest, _| skip(rest, resp3));
    match bytes[0] {
        b'+' | b'-' => assert!(!line.expect("words are text").contains(char::is_control)),
        b':' => drop(line.expect("text").parse::<i64>().expect("a number")),
        b'_' => assert!(resp3 && end == 1),
        b'$' | b'*' if line == Ok("-1") => assert!(!resp3),
        b'$' => return rest[number()..].strip_prefix(b"\r\n").expect("a value ends where it says"),
        b'*' => return all(number()),
        b'>' if resp3 => return all(number()),
        b'%' if resp3 => return all(2 * number()),
        kind => panic!("{:?} begins no reply", char::from(kind)),
    }
    rest
}

/// The first byte is the length of the pattern, the text comes behind it.
pub(crate) fn check_glob(data: &[u8]) {
    let Some((length, data)) = data.split_first() else { return };
    let (pattern, text) = data.split_at(usize::from(*length).min(data.len()));
    let matches = glob::matches(pattern, text);
    if !pattern.is_empty() && pattern.iter().all(|byte| *byte == b'*') {
        assert!(matches, "a star matches everything");
    }
    if pattern.len() * text.len() <= 4096 {
        assert_eq!(matches, plainly(pattern, text));
    }
    if text.iter().all(|byte| !b"*?[\\".contains(byte)) {
        assert!(glob::matches(text, text));
    }
}

/// The same, from the back: whether each rest of the text matches each rest of the pattern.
fn plainly(pattern: &[u8], text: &[u8]) -> bool {
    let mut table = vec![vec![false; text.len() + 1]; pattern.len() + 1];
    table[pattern.len()][text.len()] = true;
    for p in (0..pattern.len()).rev() {
        for t in (0..=text.len()).rev() {
            table[p][t] = match (pattern[p], text.get(t)) {
                (b'*', byte) => table[p + 1][t] || (byte.is_some() && table[p][t + 1]),
                (_, None) => false,
                (b'?', Some(_)) => table[p + 1][t + 1],
                (b'[', Some(byte)) => {
                    let (taken, members, not) = class(&pattern[p..]);
                    members[usize::from(*byte)] != not && table[p + taken][t + 1]
                }
                (b'\\', Some(byte)) if p + 1 < pattern.len() => {
                    pattern[p + 1] == *byte && table[p + 2][t + 1]
                }
                (plain, Some(byte)) => plain == *byte && table[p + 1][t + 1],
            };
        }
    }
    table[0][0]
}

/// The length of the class that begins here, its bytes, and whether it stands for all others.
fn class(pattern: &[u8]) -> (usize, [bool; 256], bool) {
    let not = pattern.get(1) == Some(&b'^');
    let (mut at, mut members) = (1 + usize::from(not), [false; 256]);
    loop {
        match pattern[at..] {
            [] => return (at, members, not),
            [b']', ..] => return (at + 1, members, not),
            [b'\\', byte, ..] => {
                members[usize::from(byte)] = true;
                at += 2;
            }
            [from, b'-', to, ..] => {
                (from.min(to)..=from.max(to)).for_each(|byte| members[usize::from(byte)] = true);
                at += 3;
            }
            [byte, ..] => {
                members[usize::from(byte)] = true;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn kept_inputs() {
        world::fuzz::replay("sentinel", super::check);
        world::fuzz::replay("glob", super::check_glob);
    }
}
