//! A command on its way to the server: arguments as bytes, already in the form of the wire.

use bytes::{BufMut, Bytes, BytesMut};

/// One command. Built once, it can be sent any number of times.
#[derive(Clone, PartialEq, Eq)]
pub struct Command {
    count: usize,
    /// Every argument as `$len CR LF bytes CR LF`.
    body: BytesMut,
}

impl Command {
    /// A command without arguments as yet.
    pub fn new(name: impl AsRef<[u8]>) -> Self {
        Self { count: 0, body: BytesMut::new() }.arg(name)
    }

    /// The same command with one more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<[u8]>) -> Self {
        self.push(arg);
        self
    }

    /// Adds one argument.
    pub fn push(&mut self, arg: impl AsRef<[u8]>) {
        let arg = arg.as_ref();
        self.body.reserve(arg.len() + 16);
        put_number(&mut self.body, b'$', arg.len());
        self.body.put_slice(arg);
        self.body.put_slice(b"\r\n");
        self.count += 1;
    }

    /// How many bytes it has on the wire, give or take its short first line.
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Never: a command has at least its name.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Appends the command to what is to be written.
    pub fn write_to(&self, out: &mut BytesMut) {
        out.reserve(self.body.len() + 16);
        put_number(out, b'*', self.count);
        out.put_slice(&self.body);
    }

    /// The command as bytes of the wire.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.write_to(&mut out);
        out.freeze()
    }
}

impl std::fmt::Debug for Command {
    /// The size only: arguments may be passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Command({} arguments, {} bytes)", self.count, self.body.len())
    }
}

/// `kind`, the number in decimal, CR LF; without the formatting machinery, for this runs once per argument.
fn put_number(out: &mut BytesMut, kind: u8, number: usize) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.put_u8(kind);
    out.put_slice(&digits[at..]);
    out.put_slice(b"\r\n");
}

/// A [`Command`] from its name and arguments, each anything that is bytes: `cmd!["SET", key, value]`.
#[macro_export]
macro_rules! cmd {
    [$name:expr $(, $arg:expr)* $(,)?] => { $crate::Command::new($name)$(.arg($arg))* };
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_bytes_of_the_wire() {
        let set = cmd!["SET", "k", vec![0_u8, 255], 12.to_string()];
        assert_eq!(&set.to_bytes()[..], b"*4\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\x00\xff\r\n$2\r\n12\r\n");
        assert_eq!(&cmd!["PING"].arg("").to_bytes()[..], b"*2\r\n$4\r\nPING\r\n$0\r\n\r\n");
        assert!(!format!("{:?}", cmd!["AUTH", "secret"]).contains("secret"));
    }
}
