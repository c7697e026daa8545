//! Bytes to commands, replies to bytes. A command is an array of bulk strings or an inline line of words; a reply is
//! written in RESP2 or RESP3, whichever the connection speaks. Everything that comes in is bounded.

/// The arguments of one command, its name included.
pub(super) const ARGUMENTS_MAX: usize = 1024;
/// The bytes of one command.
pub(super) const QUERY_MAX: usize = 1 << 20;
/// The bytes of an inline command, and of the line that says how long an argument is.
const LINE_MAX: usize = 64 * 1024;
/// What Redis takes for the length of something.
const LENGTH_LINE_MAX: usize = 32;

/// What stands at the beginning of the bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// The beginning of a command; more has to come.
    Half,
    /// A command, perhaps an empty one, and how many bytes it took.
    Whole(Vec<Vec<u8>>, usize),
    /// Nothing that could be made sense of, now or later.
    Broken(&'static str),
}

/// Looks at what has come so far.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    match bytes.first() {
        None => Parsed::Half,
        Some(b'*') => array(bytes).unwrap_or_else(|early| early),
        Some(_) => inline(bytes),
    }
}

fn inline(bytes: &[u8]) -> Parsed {
    let Some(end) = bytes.iter().take(LINE_MAX).position(|byte| *byte == b'\n') else {
        return if bytes.len() >= LINE_MAX { Parsed::Broken("too big inline request") } else { Parsed::Half };
    };
    let words = bytes[..end].split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let words: Vec<Vec<u8>> = words.map(<[u8]>::to_vec).collect();
    match words.len() > ARGUMENTS_MAX {
        true => Parsed::Broken("too many words"),
        false => Parsed::Whole(words, end + 1),
    }
}

/// `Err` is an early end: half a command, or none.
fn array(bytes: &[u8]) -> Result<Parsed, Parsed> {
    let (number, mut at) = length(bytes, 1, "invalid multibulk length")?;
    if number > ARGUMENTS_MAX as i64 {
        return Err(Parsed::Broken("invalid multibulk length"));
    }
    // Copied only when all of it is there: half a command is looked at again whenever a piece of it comes.
    let mut arguments = Vec::new();
    for _ in 0..number.max(0) {
        match bytes.get(at) {
            None => return Err(Parsed::Half),
            Some(b'$') => {}
            Some(_) => return Err(Parsed::Broken("expected '$'")),
        }
        let (length, begin) = length(bytes, at + 1, "invalid bulk length")?;
        let room = QUERY_MAX.saturating_sub(begin);
        let length = usize::try_from(length).ok().filter(|length| *length <= room);
        let end = begin + length.ok_or(Parsed::Broken("invalid bulk length"))?;
        if bytes.len() < end + 2 {
            return Err(Parsed::Half);
        }
        if &bytes[end..end + 2] != b"\r\n" {
            return Err(Parsed::Broken("expected CRLF after an argument"));
        }
        arguments.push(&bytes[begin..end]);
        at = end + 2;
    }
    Ok(Parsed::Whole(arguments.into_iter().map(<[u8]>::to_vec).collect(), at))
}

/// The number on the line that begins at `from`, and where the next line begins.
fn length(bytes: &[u8], from: usize, otherwise: &'static str) -> Result<(i64, usize), Parsed> {
    let rest = &bytes[from..];
    let Some(end) = rest.iter().take(LENGTH_LINE_MAX).position(|byte| *byte == b'\n') else {
        let broken = rest.len() >= LENGTH_LINE_MAX;
        return Err(if broken { Parsed::Broken(otherwise) } else { Parsed::Half });
    };
    let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
    let number = str::from_utf8(line).ok().filter(|text| !text.starts_with('+'));
    let number = number.and_then(|text| text.parse().ok()).ok_or(Parsed::Broken(otherwise))?;
    Ok((number, from + end + 1))
}

/// What is answered or announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// `+OK`
    Simple(String),
    /// `-ERR ...`; one line, whatever is in it.
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    /// No text: `$-1`, in RESP3 `_`.
    NoBulk,
    /// No list, which is not the same in RESP2: `*-1`, in RESP3 `_`.
    NoArray,
    Array(Vec<Reply>),
    /// Names and values; in RESP2 an array that is twice as long.
    Map(Vec<(Reply, Reply)>),
    /// What nobody asked for; in RESP2 an array.
    Push(Vec<Reply>),
}

impl Reply {
    pub(super) fn ok() -> Self {
        Self::Simple("OK".to_owned())
    }

    pub(super) fn bulk(text: impl Into<Vec<u8>>) -> Self {
        Self::Bulk(text.into())
    }

    pub(super) fn error(text: impl Into<String>) -> Self {
        Self::Error(text.into())
    }

    /// Appends the bytes of this reply.
    pub(super) fn write(&self, resp3: bool, out: &mut Vec<u8>) {
        let line = |out: &mut Vec<u8>, kind: char, rest: &str| {
            out.extend(format!("{kind}{rest}\r\n").into_bytes());
        };
        let all = |out: &mut Vec<u8>, kind: char, list: &[Reply]| {
            line(out, kind, &list.len().to_string());
            list.iter().for_each(|reply| reply.write(resp3, out));
        };
        match self {
            Self::Simple(text) => line(out, '+', text),
            Self::Error(text) => line(out, '-', &text.replace(|c: char| c.is_control(), " ")),
            Self::Integer(number) => line(out, ':', &number.to_string()),
            Self::Bulk(bytes) => {
                line(out, '$', &bytes.len().to_string());
                out.extend(bytes);
                out.extend(b"\r\n");
            }
            Self::NoBulk | Self::NoArray if resp3 => line(out, '_', ""),
            Self::NoBulk => line(out, '$', "-1"),
            Self::NoArray => line(out, '*', "-1"),
            Self::Array(list) => all(out, '*', list),
            Self::Push(list) => all(out, if resp3 { '>' } else { '*' }, list),
            Self::Map(pairs) => {
                match resp3 {
                    true => line(out, '%', &pairs.len().to_string()),
                    false => line(out, '*', &(2 * pairs.len()).to_string()),
                }
                for (name, value) in pairs {
                    name.write(resp3, out);
                    value.write(resp3, out);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(words: &[&str], used: usize) -> Parsed {
        Parsed::Whole(words.iter().map(|word| word.as_bytes().to_vec()).collect(), used)
    }

    #[test]
    fn commands() {
        for (text, parsed) in [
            ("PING\r\n", whole(&["PING"], 6)),
            ("PING\nPING\n", whole(&["PING"], 5)),
            ("  sentinel  masters \r\n", whole(&["sentinel", "masters"], 22)),
            ("\r\n", whole(&[], 2)),
            ("PING", Parsed::Half),
            ("", Parsed::Half),
            ("*1\r\n$4\r\nPING\r\n*1", whole(&["PING"], 14)),
            ("*2\r\n$4\r\nPING\r\n$0\r\n\r\n", whole(&["PING", ""], 20)),
            ("*2\r\n$3\r\na\r\n\r\n$1\r\nb\r\n", whole(&["a\r\n", "b"], 20)),
            ("*0\r\n", whole(&[], 4)),
            ("*-1\r\n", whole(&[], 5)),
            ("*", Parsed::Half),
            ("*1\r\n", Parsed::Half),
            ("*1\r\n$4\r\nPING\r", Parsed::Half),
            ("*x\r\n", Parsed::Broken("invalid multibulk length")),
            ("*+1\r\n", Parsed::Broken("invalid multibulk length")),
            ("*1025\r\n", Parsed::Broken("invalid multibulk length")),
            ("*99999999999999999999\r\n", Parsed::Broken("invalid multibulk length")),
            ("*00000000000000000000000000000000", Parsed::Broken("invalid multibulk length")),
            ("*1\r\n:1\r\n", Parsed::Broken("expected '$'")),
            ("*1\r\n$-1\r\n", Parsed::Broken("invalid bulk length")),
            ("*1\r\n$1048577\r\n", Parsed::Broken("invalid bulk length")),
            ("*1\r\n$1\r\nabc", Parsed::Broken("expected CRLF after an argument")),
        ] {
            assert_eq!(parse(text.as_bytes()), parsed, "{text:?}");
        }
    }

    #[test]
    fn bounds() {
        let long = vec![b'a'; LINE_MAX];
        assert_eq!(parse(&long), Parsed::Broken("too big inline request"));
        assert_eq!(parse(&long[1..]), Parsed::Half);
        let most = "a ".repeat(ARGUMENTS_MAX) + "\n";
        assert!(matches!(parse(most.as_bytes()), Parsed::Whole(words, _) if words.len() == ARGUMENTS_MAX));
        assert_eq!(parse(("a ".to_owned() + &most).as_bytes()), Parsed::Broken("too many words"));
        // Together, not each by itself.
        let two = [b"*2\r\n$600000\r\n".to_vec(), vec![b'x'; 600_000], b"\r\n$600000\r\n".to_vec()].concat();
        assert_eq!(parse(&two), Parsed::Broken("invalid bulk length"));
    }

    #[test]
    fn no_prefix_and_no_wrong_byte_of_a_command_panics() {
        let command = b"*3\r\n$8\r\nSENTINEL\r\n$6\r\nmaster\r\n$5\r\nposts\r\n";
        for end in 0..command.len() {
            assert_eq!(parse(&command[..end]), Parsed::Half, "{end}");
            for byte in 0..=255 {
                let mut junk = command.to_vec();
                junk[end] = byte;
                if let Parsed::Whole(_, used) = parse(&junk) {
                    assert!(0 < used && used <= junk.len());
                }
            }
        }
    }

    #[test]
    fn replies() {
        let text = |text: &str| Reply::bulk(text);
        for (reply, resp2, resp3) in [
            (Reply::ok(), "+OK\r\n", "+OK\r\n"),
            (Reply::error("ERR a\r\nb"), "-ERR a  b\r\n", "-ERR a  b\r\n"),
            (Reply::Integer(-7), ":-7\r\n", ":-7\r\n"),
            (text("a\r\n"), "$3\r\na\r\n\r\n", "$3\r\na\r\n\r\n"),
            (Reply::NoBulk, "$-1\r\n", "_\r\n"),
            (Reply::NoArray, "*-1\r\n", "_\r\n"),
            (
                Reply::Array(vec![text("a"), Reply::Integer(1)]),
                "*2\r\n$1\r\na\r\n:1\r\n",
                "*2\r\n$1\r\na\r\n:1\r\n",
            ),
            (
                Reply::Map(vec![(text("a"), text("b"))]),
                "*2\r\n$1\r\na\r\n$1\r\nb\r\n",
                "%1\r\n$1\r\na\r\n$1\r\nb\r\n",
            ),
            (Reply::Push(vec![text("a")]), "*1\r\n$1\r\na\r\n", ">1\r\n$1\r\na\r\n"),
        ] {
            for (resp3, expected) in [(false, resp2), (true, resp3)] {
                let mut out = Vec::new();
                reply.write(resp3, &mut out);
                assert_eq!(String::from_utf8(out).unwrap(), expected, "{reply:?}");
            }
        }
    }
}
