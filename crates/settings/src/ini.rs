//! From text to entries: section, key, value, line.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::nearest::nearest;
use crate::problem::Problem;
use crate::schema::{Key, Schema, Section};

/// What stands in one file and its environment. Only entries that the schema knows are in it; what else was found
/// are [`Problem`]s, which the [`crate::Reader`] hands on.
#[derive(Debug, Clone)]
pub struct Ini {
    pub(crate) file: String,
    pub(crate) entries: BTreeMap<(String, String), Entry>,
    /// The line of each section's header.
    pub(crate) sections: BTreeMap<String, usize>,
    pub(crate) problems: Vec<Problem>,
    ignored: Vec<String>,
}

/// One value and where it stands.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) value: String,
    /// The file or the variable.
    pub(crate) origin: String,
    pub(crate) line: usize,
    pub(crate) secret: bool,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}:{})", self.shown(), self.origin, self.line)
    }
}

/// A key whose value is another one than before. Displayed without secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where it stands.
    pub section: String,
    /// Its name.
    pub key: String,
    shown: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}: {}", self.section, self.key, self.shown)
    }
}

impl Entry {
    /// The value as far as it may be shown.
    pub(crate) fn shown(&self) -> &str {
        if self.secret { HIDDEN } else { &self.value }
    }
}

/// In place of a secret.
const HIDDEN: &str = "***";

/// Variables that are no settings.
const RESERVED: &str = "ALBIREO_TEST_";

impl Ini {
    /// Reads a file's text. `file` is its name in messages, `environment` may hold anything: only `ALBIREO_*`
    /// counts.
    pub fn parse(
        text: &[u8],
        file: &str,
        environment: impl IntoIterator<Item = (String, String)>,
        schema: &Schema,
    ) -> Self {
        let mut parser = Parser::new(file, schema);
        match str::from_utf8(text) {
            Ok(text) => parser.text(text.strip_prefix('\u{feff}').unwrap_or(text)),
            Err(error) => {
                let line = 1 + text[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
                parser.problem(line, None, "not UTF-8");
            }
        }
        parser.ini.overrides(environment, schema);
        parser.ini
    }

    /// What stands in `newer` otherwise than here, in the order of sections and keys.
    pub fn changes(&self, newer: &Self) -> Vec<Change> {
        let places: BTreeSet<_> = self.entries.keys().chain(newer.entries.keys()).collect();
        let changed = places.into_iter().filter_map(|place| {
            let (before, after) = (self.entries.get(place), newer.entries.get(place));
            if before.map(|entry| &entry.value) == after.map(|entry| &entry.value) {
                return None;
            }
            let shown = |entry: Option<&Entry>| entry.map_or("not set", Entry::shown).to_string();
            let shown = format!("{} -> {}", shown(before), shown(after));
            Some(Change { section: place.0.clone(), key: place.1.clone(), shown })
        });
        changed.collect()
    }

    /// This configuration with one key as it stands in `newer`.
    pub fn adopt(&mut self, newer: &Self, change: &Change) {
        let place = (change.section.clone(), change.key.clone());
        match newer.entries.get(&place) {
            Some(entry) => _ = self.entries.insert(place, entry.clone()),
            None => _ = self.entries.remove(&place),
        }
    }

    /// `ALBIREO_*` variables that match no key, for a warning: another program's, or mistyped.
    pub fn ignored_variables(&self) -> &[String] {
        &self.ignored
    }

    fn overrides(&mut self, environment: impl IntoIterator<Item = (String, String)>, schema: &Schema) {
        let names = self.variables(schema);
        for (variable, value) in environment {
            if !variable.starts_with("ALBIREO_") || variable.starts_with(RESERVED) || value.trim().is_empty()
            {
                continue;
            }
            match names.get(&variable) {
                Some((section, key, secret)) => {
                    let entry =
                        Entry { value: value.trim().to_string(), origin: variable, line: 1, secret: *secret };
                    self.entries.insert((section.clone(), key.clone()), entry);
                }
                None => self.ignored.push(variable),
            }
        }
        self.ignored.sort();
    }

    /// The variable of every key that can have one: section, key, whether it is a secret.
    fn variables(&self, schema: &Schema) -> BTreeMap<String, (String, String, bool)> {
        let mut names = BTreeMap::new();
        let mut add = |section: &str, key: &str, secret| {
            let name = format!("ALBIREO_{}_{}", plain(section), plain(key));
            names.insert(name, (section.to_string(), key.to_string(), secret));
        };
        let standing = self.sections.keys().map(String::as_str);
        let fixed =
            schema.sections().iter().filter(|section| section.is_fixed()).map(|section| section.name());
        for name in standing.chain(fixed) {
            let keys = schema.section(name).map_or(&[][..], Section::keys);
            for key in keys.iter().filter(|key| key.is_fixed()) {
                add(name, key.name(), key.is_secret());
            }
        }
        for ((section, key), entry) in &self.entries {
            add(section, key, entry.secret);
        }
        names
    }
}

/// A name as part of a variable's name.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

/// Goes through the lines of one file.
struct Parser<'a> {
    schema: &'a Schema,
    ini: Ini,
    /// The section in which the present line stands.
    section: Option<String>,
    /// Sections in which a key was already reported, so that an unknown one is not reported once more as empty.
    seen: BTreeSet<String>,
}

impl<'a> Parser<'a> {
    fn new(file: &str, schema: &'a Schema) -> Self {
        let ini = Ini {
            file: file.to_string(),
            entries: BTreeMap::new(),
            sections: BTreeMap::new(),
            problems: Vec::new(),
            ignored: Vec::new(),
        };
        Self { schema, ini, section: None, seen: BTreeSet::new() }
    }

    fn text(&mut self, text: &str) {
        for (at, line) in text.lines().enumerate() {
            self.line(at + 1, line.trim());
        }
        let unknown: Vec<(String, usize)> = self
            .ini
            .sections
            .iter()
            .filter(|(name, _)| !self.seen.contains(*name) && self.is_unknown(name))
            .map(|(name, line)| (name.clone(), *line))
            .collect();
        for (name, line) in unknown {
            self.section = Some(name.clone());
            self.problem(line, None, &self.unknown_section(&name));
        }
    }

    fn line(&mut self, number: usize, line: &str) {
        if line.is_empty() || line.starts_with([';', '#']) {
            return;
        }
        if line.starts_with('[') {
            return self.header(number, line);
        }
        let Some((key, value)) = line.split_once('=') else {
            // The first word only: the rest may be a password without its `=`.
            let word = line.split_whitespace().next().unwrap_or_default();
            return self.problem(number, Some((word, "")), "a line is `key = value`; the `=` is missing");
        };
        self.entry(number, key.trim(), value.trim());
    }

    fn header(&mut self, number: usize, line: &str) {
        let line = uncommented(line).0;
        // An IPv6 address in the name brings brackets of its own: `[redis:[::1]:6379]`.
        let name = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).map(str::trim);
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            self.section = Some(line.trim_matches(['[', ']']).to_string());
            return self.problem(number, None, "a section is `[name]`");
        };
        self.section = Some(name.to_string());
        match self.ini.sections.get(name) {
            Some(first) => {
                let why = format!("the section stands twice, first on line {first}");
                self.problem(number, None, &why);
            }
            None => {
                self.ini.sections.insert(name.to_string(), number);
            }
        }
    }

    fn entry(&mut self, number: usize, key: &str, value: &str) {
        let Some(name) = self.section.clone() else {
            return self.problem(number, Some((key, value)), "stands before the first [section]");
        };
        self.seen.insert(name.clone());
        let Some(section) = self.schema.section(&name) else {
            if self.is_unknown(&name) {
                self.problem(number, Some((key, value)), &self.unknown_section(&name));
            }
            return;
        };
        let Some(known) = section.key(key) else {
            return self.problem(number, Some((key, value)), &self.unknown_key(section, key));
        };
        let (bare, cut) = uncommented(value);
        if cut && known.is_secret() {
            let why = "white space before `;` or `#` in a secret is ambiguous: put the value into a file (file:PATH)";
            return self.problem(number, Some((key, value)), why);
        }
        let id = (name, key.to_string());
        if let Some(first) = self.ini.entries.get(&id) {
            let why = format!("stands twice, first on line {}", first.line);
            return self.problem(number, Some((key, bare)), &why);
        }
        let origin = self.ini.file.clone();
        let entry = Entry { value: bare.to_string(), origin, line: number, secret: known.is_secret() };
        self.ini.entries.insert(id, entry);
    }

    fn is_unknown(&self, section: &str) -> bool {
        !self.schema.ignores_others() && self.schema.section(section).is_none()
    }

    fn unknown_section(&self, name: &str) -> String {
        let known: Vec<String> = self.schema.sections().iter().map(Section::shown).collect();
        match nearest(name, known.iter().map(String::as_str)) {
            Some(meant) => format!("unknown section; did you mean [{meant}]?"),
            None => format!("unknown section; there are [{}]", known.join("] [")),
        }
    }

    fn unknown_key(&self, section: &Section, key: &str) -> String {
        let named = |known: &&Key| !known.is_fixed() && key.split('.').next() == Some(known.name());
        if let Some(known) = section.keys().iter().find(named) {
            return format!("unknown key; expected {}.HOST:PORT", known.name());
        }
        if let Some(meant) = nearest(key, section.keys().iter().map(Key::name)) {
            return format!("unknown key; did you mean `{meant}`?");
        }
        match self.schema.sections().iter().find(|other| other.key(key).is_some()) {
            Some(home) => format!("unknown key; it belongs to [{}]", home.shown()),
            None => "unknown key".to_string(),
        }
    }

    fn problem(&mut self, line: usize, key: Option<(&str, &str)>, why: &str) {
        let shown = |(key, value): (&str, &str)| {
            let value = if self.is_secret(key) { HIDDEN } else { value };
            (key.to_string(), value.to_string())
        };
        self.ini.problems.push(Problem {
            file: self.ini.file.clone(),
            line: Some(line),
            section: self.section.clone().unwrap_or_default(),
            key: key.map(shown),
            why: why.to_string(),
        });
    }

    /// Whether a value must not be shown, also that of a key in the wrong place or with a mistyped name.
    fn is_secret(&self, key: &str) -> bool {
        let key = key.to_lowercase();
        let secrets = || {
            let keys = self.schema.sections().iter().flat_map(|section| section.keys());
            keys.filter(|key| key.is_secret()).map(Key::name)
        };
        // Also in the file of another program, whose keys are not known here.
        let parts = ["pass", "pwd", "token", "auth", "secret", "credential", "webh"];
        parts.iter().any(|part| key.contains(part)) || nearest(&key, secrets()).is_some()
    }
}

/// The value without an inline comment, and whether there was one.
fn uncommented(text: &str) -> (&str, bool) {
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        if (c == ';' || c == '#') && before.is_whitespace() {
            return (text[..at].trim_end(), true);
        }
        before = c;
    }
    (text, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: Schema = Schema::new(&[
        Section::new("zookeeper", &[Key::plain("hosts"), Key::plain("path"), Key::secret("auth")]),
        Section::new("failover", &[Key::per_address("priority"), Key::plain("cold_start")]),
        Section::per_address("redis", &[Key::plain("username"), Key::secret("password")]),
    ]);

    fn parse(text: &str) -> Ini {
        Ini::parse(text.as_bytes(), "f.ini", [], &SCHEMA)
    }

    fn value<'a>(ini: &'a Ini, section: &str, key: &str) -> Option<&'a str> {
        ini.entries.get(&(section.to_string(), key.to_string())).map(|entry| entry.value.as_str())
    }

    fn problems(text: &str) -> Vec<String> {
        parse(text).problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_a_file_may_look_like() {
        let ini = parse(
            "\u{feff}; first\r\n\r\n [zookeeper] ; second\r\n  hosts=a:1,b:2 # third\r\n\tpath  = /a=b\r\n# auth = x\r\n\
             [redis:[::1]:6379]\npassword = a;b#c\n[failover]\npriority.a:1 = 0",
        );
        assert_eq!(ini.problems, []);
        assert_eq!(value(&ini, "zookeeper", "hosts"), Some("a:1,b:2"));
        assert_eq!(value(&ini, "zookeeper", "path"), Some("/a=b"));
        assert_eq!(value(&ini, "zookeeper", "auth"), None);
        assert_eq!(value(&ini, "redis:[::1]:6379", "password"), Some("a;b#c"));
        assert_eq!(value(&ini, "failover", "priority.a:1"), Some("0"));
        assert_eq!(ini.entries[&("zookeeper".into(), "path".into())].line, 5);
    }

    #[test]
    fn inline_comments_need_white_space_and_are_refused_in_secrets() {
        let ini = parse("[zookeeper]\nhosts = a:1;b:2\npath = ; nothing");
        assert_eq!(value(&ini, "zookeeper", "hosts"), Some("a:1;b:2"));
        assert_eq!(value(&ini, "zookeeper", "path"), Some(""));
        let found = problems("[zookeeper]\nauth = bob:a #b");
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("f.ini:2: [zookeeper] auth = ***: white space before"), "{found:?}");
        assert!(problems("[zookeeper]\nauth = #b")[0].contains("ambiguous"));
    }

    #[test]
    fn every_mistake_is_one_line_and_names_its_place() {
        let text = "hosts = x\n[zookeeper]\nhosts = a\nhosts = b\nhost = c\npassword = p\nnonsense\n[zokeeper]\nx = 1\n\
                    y = 2\n[empty]\n[zookeeper]\n[]\n[redis:nowhere]\nusername = u\n[failover]\npriority.x = 1\n[open\n";
        let expected = [
            "f.ini:1: [] hosts = x: stands before the first [section]",
            "f.ini:4: [zookeeper] hosts = b: stands twice, first on line 3",
            "f.ini:5: [zookeeper] host = c: unknown key; did you mean `hosts`?",
            "f.ini:6: [zookeeper] password = ***: unknown key; it belongs to [redis:HOST:PORT]",
            "f.ini:7: [zookeeper] nonsense = : a line is `key = value`; the `=` is missing",
            "f.ini:9: [zokeeper] x = 1: unknown section; did you mean [zookeeper]?",
            "f.ini:10: [zokeeper] y = 2: unknown section; did you mean [zookeeper]?",
            "f.ini:11: [empty]: unknown section; there are [zookeeper] [failover] [redis:HOST:PORT]",
            "f.ini:12: [zookeeper]: the section stands twice, first on line 2",
            "f.ini:13: []: a section is `[name]`",
            "f.ini:15: [redis:nowhere] username = u: unknown section; there are [zookeeper] [failover] \
             [redis:HOST:PORT]",
            "f.ini:17: [failover] priority.x = 1: unknown key; expected priority.HOST:PORT",
            "f.ini:18: [open]: a section is `[name]`",
        ];
        let mut found = parse(text).problems;
        found.sort_by_key(|problem| problem.line);
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn no_secret_is_ever_shown() {
        for text in [
            "[zookeeper]\nauth = s3cret\nauth = s3cret",
            "[zookeeper]\nauht = s3cret",
            "[zookeeper]\npasswrd = s3cret",
            "[nowhere]\npassword = s3cret",
            "password = s3cret",
            "[zookeeper]\nauth s3cret",
            "[zookeeper]\nmy_token = s3cret",
            "[hooks]\nwebhook = http://a/s3cret",
            "[hooks]\nwebhok = http://a/s3cret",
        ] {
            let found = problems(text);
            assert!(!found.is_empty() && !found.concat().contains("s3cret"), "{text}: {found:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text() {
        let ini = Ini::parse(b"[zookeeper]\nhosts = \xff", "f.ini", [], &SCHEMA);
        assert_eq!(ini.problems[0].to_string(), "f.ini:2: []: not UTF-8");
    }

    #[test]
    fn the_environment_overrides() {
        let env = [
            ("ALBIREO_ZOOKEEPER_HOSTS", "z:1"),
            ("ALBIREO_ZOOKEEPER_PATH", " "),
            ("ALBIREO_REDIS_10_0_0_1_6379_PASSWORD", "p # q"),
            ("ALBIREO_REDIS_10_0_0_2_6379_PASSWORD", "nobody"),
            ("ALBIREO_FAILOVER_PRIORITY_A_1", "7"),
            ("ALBIREO_FAILOVER_COLD_START", "operator"),
            ("ALBIREO_ZOKEEPER_HOSTS", "typo"),
            ("ALBIREO_TEST_FAULT", "stop:promote"),
            ("PATH", "/bin"),
        ];
        let env = env.map(|(name, value)| (name.to_string(), value.to_string()));
        let text = "[zookeeper]\nhosts = a:1\npath = /p\n[redis:10.0.0.1:6379]\n[failover]\npriority.a:1 = 3";
        let ini = Ini::parse(text.as_bytes(), "f.ini", env, &SCHEMA);
        assert_eq!(ini.problems, []);
        assert_eq!(value(&ini, "zookeeper", "hosts"), Some("z:1"));
        assert_eq!(value(&ini, "zookeeper", "path"), Some("/p"));
        assert_eq!(value(&ini, "redis:10.0.0.1:6379", "password"), Some("p # q"));
        assert_eq!(value(&ini, "failover", "priority.a:1"), Some("7"));
        assert_eq!(value(&ini, "failover", "cold_start"), Some("operator"));
        assert_eq!(
            ini.ignored_variables(),
            ["ALBIREO_REDIS_10_0_0_2_6379_PASSWORD", "ALBIREO_ZOKEEPER_HOSTS"]
        );
    }

    #[test]
    fn what_changed_is_told_without_secrets() {
        let read = |text: &str| Ini::parse(text.as_bytes(), "f.ini", [], &SCHEMA);
        let old = read("[zookeeper]\nhosts = a:1\nauth = u:s3cret\n[failover]\ncold_start = best");
        let new = read("# moved\n[zookeeper]\nauth = u:0ther\nhosts = a:1\npath = /p");
        let told: Vec<String> = old.changes(&new).iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "[failover] cold_start: best -> not set",
                "[zookeeper] auth: *** -> ***",
                "[zookeeper] path: not set -> /p"
            ]
        );
        let mut adopted = old.clone();
        adopted.adopt(&new, &old.changes(&new)[0]);
        assert_eq!(adopted.changes(&new).len(), 2, "what was not adopted is told again");
        assert!(!format!("{old:?}").contains("s3cret"));
    }

    #[test]
    fn a_lenient_schema_leaves_other_sections_alone() {
        const LENIENT: Schema = Schema::lenient(&[Section::new("zookeeper", &[Key::plain("hosts")])]);
        let ini = Ini::parse(b"[api]\nx = 1\n[zookeeper]\nx = 1", "f.ini", [], &LENIENT);
        assert_eq!(ini.problems.len(), 1);
        assert_eq!(ini.problems[0].line, Some(4));
    }
}
