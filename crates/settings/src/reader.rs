//! Typed values. A value that is missing is the default; a wrong one is a [`Problem`], and the default goes on, so
//! that one run names every mistake.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use topology::Endpoint;

use crate::ini::{Entry, Ini};
use crate::problem::{Problem, Problems};

/// Reads a file named in a value, given the path as it stands there.
pub type ReadFile<'a> = dyn Fn(&str) -> Result<Vec<u8>, String> + 'a;

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<Vec<u8>>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, to be sent or compared.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Whether the value of an `Authorization` header is `Bearer` and this secret. The time it takes tells nothing about
    /// where a wrong one differs.
    pub fn is_borne_by(&self, authorization: &[u8]) -> bool {
        let Some((scheme, given)) = authorization.split_at_checked(7) else { return false };
        scheme.eq_ignore_ascii_case(b"bearer ") && self.matches(given.trim_ascii())
    }

    /// Whether this is the secret. The time it takes tells nothing about where a wrong one differs.
    pub fn matches(&self, given: &[u8]) -> bool {
        let differing = given.iter().zip(&self.0).fold(0, |all, (a, b)| all | (a ^ b));
        std::hint::black_box(differing) == 0 && given.len() == self.0.len()
    }

    /// The secret itself as text; what [`SectionReader::secret`] reads always is text.
    pub fn text(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Takes values out of an [`Ini`] and collects mistakes.
pub struct Reader<'a> {
    ini: &'a Ini,
    read_file: &'a ReadFile<'a>,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    /// Begins with what the parser found.
    pub fn new(ini: &'a Ini, read_file: &'a ReadFile<'a>) -> Self {
        Self { ini, read_file, problems: ini.problems.clone() }
    }

    /// One section, whether it stands in the file or not.
    pub fn section(&mut self, name: &str) -> SectionReader<'_, 'a> {
        SectionReader { name: name.to_string(), reader: self }
    }

    /// The addresses of all `[NAME:HOST:PORT]` sections, with each section's full name.
    pub fn addresses(&self, name: &str) -> Vec<(Endpoint, String)> {
        let address = |section: &String| {
            let address = section.strip_prefix(name)?.strip_prefix(':')?.parse().ok()?;
            Some((address, section.clone()))
        };
        self.ini.sections.keys().filter_map(address).collect()
    }

    /// Nothing, or every mistake.
    pub fn finish(self) -> Result<(), Problems> {
        Problems::check(self.problems)
    }
}

/// Takes values out of one section.
pub struct SectionReader<'r, 'a> {
    name: String,
    reader: &'r mut Reader<'a>,
}

impl SectionReader<'_, '_> {
    /// Whether the key has a value.
    pub fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// Text, one character or more.
    pub fn text(&mut self, key: &str) -> Option<String> {
        let value = self.entry(key)?.value.clone();
        if value.is_empty() {
            self.refuse(key, "empty; leave the key out or give a value");
            return None;
        }
        Some(value)
    }

    /// Text that may be empty.
    pub fn text_or_empty(&mut self, key: &str) -> Option<String> {
        Some(self.entry(key)?.value.clone())
    }

    /// Anything that can be parsed: an [`Endpoint`], a [`topology::ZnodePath`], an [`crate::Ensemble`].
    pub fn parsed<T: FromStr<Err: fmt::Display>>(&mut self, key: &str) -> Option<T> {
        let text = self.text(key)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.refuse(key, &error.to_string());
                None
            }
        }
    }

    /// The same, for a key without which nothing works; `example` shows what is expected.
    pub fn required<T: FromStr<Err: fmt::Display>>(&mut self, key: &str, example: &str) -> Option<T> {
        if !self.has(key) {
            self.refuse(key, &format!("missing; for example {example}"));
        }
        self.parsed(key)
    }

    /// Several values between commas; none if the key is missing.
    pub fn list<T: FromStr<Err: fmt::Display>>(&mut self, key: &str) -> Vec<T> {
        let Some(text) = self.text(key) else { return Vec::new() };
        let mut values = Vec::new();
        for part in text.split(',') {
            match part.trim().parse::<T>() {
                Ok(value) => values.push(value),
                Err(error) => self.refuse(key, &error.to_string()),
            }
        }
        values
    }

    /// A whole number within bounds, in `unit` (may be empty).
    pub fn integer<T>(&mut self, key: &str, default: T, bounds: RangeInclusive<T>, unit: &str) -> T
    where
        T: Copy + PartialOrd + fmt::Display + FromStr,
    {
        let Some(text) = self.text(key) else { return default };
        let (low, high) = (bounds.start(), bounds.end());
        let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
        // `+5` is a number to the parser and a slip of the pen to us.
        match text.parse::<T>() {
            Ok(value) if bounds.contains(&value) && !text.starts_with('+') => return value,
            Ok(_) => self.refuse(key, &format!("not between {low} and {high}{unit}")),
            // A number too large for T is out of bounds all the same.
            Err(_) if is_number(&text) => self.refuse(key, &format!("not between {low} and {high}{unit}")),
            Err(_) => self.refuse(key, &format!("not a whole number from {low} to {high}{unit}")),
        }
        default
    }

    /// A duration in milliseconds within bounds.
    pub fn millis(&mut self, key: &str, default: u64, bounds: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.integer(key, default, bounds, "ms"))
    }

    /// `on` or `off`.
    pub fn switch(&mut self, key: &str, default: bool) -> bool {
        self.choice(key, &[("on", true), ("off", false)]).unwrap_or(default)
    }

    /// One of some words.
    pub fn choice<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.refuse(key, &format!("expected {}", words.join(" or ")));
        None
    }

    /// A secret, or with `file:PATH` the content of that file, which must be text, without the line break at its
    /// end.
    pub fn secret(&mut self, key: &str) -> Option<Secret> {
        let text = self.text(key)?;
        let Some(path) = text.strip_prefix("file:") else { return Some(Secret::new(text)) };
        let secret = self.content(key, path.trim())?;
        if str::from_utf8(secret.expose()).is_err() {
            self.refuse(key, &format!("the file {path} is not UTF-8"));
            return None;
        }
        Some(secret)
    }

    /// The content, of any bytes, of the file that the value names, without the line break at its end.
    pub fn secret_file(&mut self, key: &str) -> Option<Secret> {
        let path = self.text(key)?;
        self.content(key, &path)
    }

    /// The content of the first of these that can be read, whatever any key says.
    pub fn first_file(&self, paths: &[&str]) -> Option<Vec<u8>> {
        paths.iter().find_map(|path| (self.reader.read_file)(path).ok())
    }

    fn content(&mut self, key: &str, path: &str) -> Option<Secret> {
        let content = match (self.reader.read_file)(path) {
            Ok(content) => content,
            Err(why) => {
                self.refuse(key, &format!("the file {path} cannot be read: {why}"));
                return None;
            }
        };
        let end = content.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |last| last + 1);
        if end == 0 {
            self.refuse(key, &format!("the file {path} is empty"));
            return None;
        }
        Some(Secret::new(&content[..end]))
    }

    /// The addresses of all `NAME.HOST:PORT` keys, with each key's full name.
    pub fn addresses(&self, name: &str) -> Vec<(Endpoint, String)> {
        let entries = self.reader.ini.entries.keys().filter(|(section, _)| *section == self.name);
        entries
            .filter_map(|(_, key)| {
                let address = key.strip_prefix(name)?.strip_prefix('.')?.parse().ok()?;
                Some((address, key.clone()))
            })
            .collect()
    }

    /// Records a mistake in the value of `key`, which may be missing.
    pub fn refuse(&mut self, key: &str, why: &str) {
        let ini = self.reader.ini;
        let (file, line, shown) = match self.entry(key) {
            Some(entry) => (entry.origin.clone(), entry.line, entry.shown().to_string()),
            None => {
                let line = ini.sections.get(&self.name).copied().unwrap_or(1);
                (ini.file.clone(), line, String::new())
            }
        };
        self.reader.problems.push(Problem {
            file,
            line: Some(line),
            section: self.name.clone(),
            key: Some((key.to_string(), shown)),
            why: why.to_string(),
        });
    }

    /// Records a mistake of the section as a whole.
    pub fn refuse_section(&mut self, why: &str) {
        let ini = self.reader.ini;
        self.reader.problems.push(Problem {
            file: ini.file.clone(),
            line: Some(ini.sections.get(&self.name).copied().unwrap_or(1)),
            section: self.name.clone(),
            key: None,
            why: why.to_string(),
        });
    }

    /// Records a mistake that lies between several keys, at the last of them that has a value.
    pub fn refuse_together(&mut self, keys: &[&str], why: &str) {
        let last = keys.iter().filter_map(|key| Some((self.entry(key)?.line, *key))).max();
        let key = last.map_or(keys[0], |(_, key)| key);
        self.refuse(key, why);
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        self.reader.ini.entries.get(&(self.name.clone(), key.to_string()))
    }
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Key, Schema, Section};
    use topology::ZnodePath;

    const SCHEMA: Schema = Schema::new(&[Section::new(
        "s",
        &[
            Key::plain("n"),
            Key::plain("ms"),
            Key::plain("b"),
            Key::plain("e"),
            Key::plain("l"),
            Key::plain("t"),
            Key::secret("p"),
            Key::plain("f"),
            Key::per_address("at"),
        ],
    )]);

    /// Reads one value out of `line`, and says what was wrong.
    fn one<T>(line: &str, read: impl FnOnce(&mut SectionReader) -> T) -> (T, Option<String>) {
        let text = format!("[s]\n{line}");
        let ini = Ini::parse(text.as_bytes(), "f", [], &SCHEMA);
        let files = |path: &str| match path {
            "good" => Ok(b"from file\r\n".to_vec()),
            "empty" => Ok(b"\n".to_vec()),
            "bytes" => Ok(b"\xff\n".to_vec()),
            _ => Err("not found".to_string()),
        };
        let mut reader = Reader::new(&ini, &files);
        let value = read(&mut reader.section("s"));
        (value, reader.finish().err().map(|problems| problems.to_string()))
    }

    fn refused(line: &str, why: &str) -> Option<String> {
        Some(format!("f:2: [s] {line}: {why}"))
    }

    #[test]
    fn integers() {
        let read = |line| one(line, |s| s.integer("n", 7_u32, 0..=100, "bytes"));
        assert_eq!(read(""), (7, None));
        assert_eq!(read("n = 0"), (0, None));
        assert_eq!(read("n = 100"), (100, None));
        for line in ["n = 101", "n = -1", "n = +1", "n = 99999999999999999999"] {
            assert_eq!(read(line), (7, refused(line, "not between 0 and 100 bytes")));
        }
        for line in ["n = x", "n = 1.5", "n = 1 000", "n = 0x10", "n = -"] {
            assert_eq!(read(line), (7, refused(line, "not a whole number from 0 to 100 bytes")));
        }
        assert_eq!(read("n ="), (7, refused("n = ", "empty; leave the key out or give a value")));
        let ms = one("ms = 250", |s| s.millis("ms", 1, 1..=1000));
        assert_eq!(ms, (Duration::from_millis(250), None));
    }

    #[test]
    fn words() {
        let switch = |line| one(line, |s| s.switch("b", true));
        assert_eq!(switch(""), (true, None));
        assert_eq!(switch("b = off"), (false, None));
        for line in ["b = yes", "b = OFF", "b = 0"] {
            assert_eq!(switch(line), (true, refused(line, "expected on or off")));
        }
    }

    #[test]
    fn addresses_and_paths() {
        let (read, problem) = one("e = 127.0.0.1:6379", |s| s.parsed::<Endpoint>("e"));
        assert_eq!((read.map(|e| e.to_string()), problem), (Some("127.0.0.1:6379".into()), None));
        let (read, problem) = one("e = 127.0.0.1", |s| s.parsed::<Endpoint>("e"));
        assert_eq!(read, None);
        assert!(
            problem.is_some_and(|p| p.starts_with("f:2: [s] e = 127.0.0.1: `127.0.0.1` is not host:port"))
        );
        let (read, problem) = one("l = /a, /b/c", |s| s.list::<ZnodePath>("l"));
        assert_eq!((read.len(), problem), (2, None));
        let (read, problem) = one("l = /a,,b", |s| s.list::<ZnodePath>("l"));
        assert_eq!(read.len(), 1);
        assert_eq!(problem.map(|p| p.lines().count()), Some(2));
        let (read, problem) = one("", |s| s.required::<Endpoint>("e", "a:1"));
        assert_eq!(read, None);
        assert_eq!(problem.as_deref(), Some("f:1: [s] e = : missing; for example a:1"));
        let (read, _) = one("at.a:1 = 1\nat.[::1]:2 = 2", |s| s.addresses("at"));
        assert_eq!(read.into_iter().map(|(_, key)| key).collect::<Vec<_>>(), ["at.[::1]:2", "at.a:1"]);
    }

    #[test]
    fn secrets() {
        let read = |line| one(line, |s| s.secret("p"));
        assert_eq!(read("p = x y"), (Some(Secret::new("x y")), None));
        assert_eq!(read("p = file:good"), (Some(Secret::new("from file")), None));
        assert_eq!(read("p = file:empty"), (None, refused("p = ***", "the file empty is empty")));
        assert_eq!(
            read("p = file:gone"),
            (None, refused("p = ***", "the file gone cannot be read: not found"))
        );
        assert_eq!(read("p = file:bytes"), (None, refused("p = ***", "the file bytes is not UTF-8")));
        assert_eq!(one("f = bytes", |s| s.secret_file("f")), (Some(Secret::new(b"\xff")), None));
        assert_eq!(one("f = good", |s| s.secret_file("f")), (Some(Secret::new("from file")), None));
        assert_eq!(format!("{:?}", Secret::new("x")), "***");
    }

    #[test]
    fn a_secret_matches_as_a_whole() {
        let secret = Secret::new("secret");
        assert!(secret.matches(b"secret") && Secret::new("").matches(b""));
        for wrong in ["", "s", "secre", "secrets", "Secret", "xecret", "secrex"] {
            assert!(!secret.matches(wrong.as_bytes()), "{wrong}");
        }
    }

    #[test]
    fn a_mistake_between_keys_is_shown_at_the_last_one() {
        let (_, problem) = one("ms = 5\nn = 9", |s| s.refuse_together(&["n", "ms"], "too close"));
        assert_eq!(problem.as_deref(), Some("f:3: [s] n = 9: too close"));
    }

    #[test]
    fn a_token_in_a_header() {
        let token = Secret::new("s3cret");
        for (value, expected) in [
            ("Bearer s3cret", true),
            ("bearer s3cret", true),
            ("Bearer s3cre", false),
            ("Bearer s3crets", false),
            ("Bearer ", false),
            ("Basic s3cret", false),
            ("s3cret", false),
            ("", false),
        ] {
            assert_eq!(token.is_borne_by(value.as_bytes()), expected, "{value}");
        }
    }
}
