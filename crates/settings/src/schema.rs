//! Which sections and keys a program knows.

use topology::Endpoint;

/// The sections of one program's file.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    sections: &'static [Section],
    ignores_others: bool,
}

/// One section and its keys.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    name: &'static str,
    keys: &'static [Key],
    per_address: bool,
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    name: &'static str,
    per_address: bool,
    secret: bool,
}

impl Schema {
    /// Sections beside these are mistakes.
    pub const fn new(sections: &'static [Section]) -> Self {
        Self { sections, ignores_others: false }
    }

    /// Sections beside these are somebody else's.
    pub const fn lenient(sections: &'static [Section]) -> Self {
        Self { sections, ignores_others: true }
    }

    /// Every section.
    pub fn sections(&self) -> &'static [Section] {
        self.sections
    }

    pub(crate) fn ignores_others(&self) -> bool {
        self.ignores_others
    }

    /// The section that `name` stands for, `redis:10.0.0.1:6379` included.
    pub(crate) fn section(&self, name: &str) -> Option<&'static Section> {
        self.sections.iter().find(|section| section.matches(name))
    }
}

impl Section {
    /// A section that stands at most once.
    pub const fn new(name: &'static str, keys: &'static [Key]) -> Self {
        Self { name, keys, per_address: false }
    }

    /// A section per server: `[NAME:HOST:PORT]`.
    pub const fn per_address(name: &'static str, keys: &'static [Key]) -> Self {
        Self { name, keys, per_address: true }
    }

    /// The name, without an address.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its keys.
    pub fn keys(&self) -> &'static [Key] {
        self.keys
    }

    /// As a person would write it.
    pub(crate) fn shown(&self) -> String {
        if self.per_address { format!("{}:HOST:PORT", self.name) } else { self.name.to_string() }
    }

    pub(crate) fn is_fixed(&self) -> bool {
        !self.per_address
    }

    pub(crate) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.matches(name))
    }

    fn matches(&self, name: &str) -> bool {
        if self.per_address { carries_address(name, self.name, ':') } else { name == self.name }
    }
}

impl Key {
    /// A key whose value may be shown.
    pub const fn plain(name: &'static str) -> Self {
        Self { name, per_address: false, secret: false }
    }

    /// A key whose value is never shown.
    pub const fn secret(name: &'static str) -> Self {
        Self { name, per_address: false, secret: true }
    }

    /// A key per server: `NAME.HOST:PORT`.
    pub const fn per_address(name: &'static str) -> Self {
        Self { name, per_address: true, secret: false }
    }

    /// The name, without an address.
    pub fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn is_secret(&self) -> bool {
        self.secret
    }

    pub(crate) fn is_fixed(&self) -> bool {
        !self.per_address
    }

    fn matches(&self, name: &str) -> bool {
        if self.per_address { carries_address(name, self.name, '.') } else { name == self.name }
    }
}

/// `redis:10.0.0.1:6379` or `priority.10.0.0.1:6379`.
fn carries_address(text: &str, name: &str, separator: char) -> bool {
    let address = text.strip_prefix(name).and_then(|rest| rest.strip_prefix(separator));
    address.is_some_and(|address| address.parse::<Endpoint>().is_ok())
}
