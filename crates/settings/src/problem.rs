//! Mistakes in a configuration, one line each.

use std::fmt;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, or the environment variable, in which it stands.
    pub file: String,
    /// From 1; `None` when the whole file is meant.
    pub line: Option<usize>,
    /// The section; empty before the first one.
    pub section: String,
    /// The key, and its value as far as it may be shown; `None` when the section is meant.
    pub key: Option<(String, String)>,
    /// What is wrong.
    pub why: String,
}

impl Problem {
    /// The file as a whole cannot be used.
    pub fn file(file: &str, why: impl fmt::Display) -> Self {
        Self { file: file.to_string(), line: None, section: String::new(), key: None, why: why.to_string() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(line) = self.line else { return write!(f, "{}: {}", self.file, self.why) };
        write!(f, "{}:{line}: [{}]", self.file, self.section)?;
        if let Some((key, value)) = &self.key {
            write!(f, " {key} = {}", value.replace(char::is_control, "?"))?;
        }
        write!(f, ": {}", self.why)
    }
}

/// All mistakes of a configuration, at least one, in the order of their lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Nothing wrong, or what is; sorted, without repetitions.
    pub(crate) fn check(mut problems: Vec<Problem>) -> Result<(), Self> {
        problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        problems.dedup();
        if problems.is_empty() { Ok(()) } else { Err(Self(problems)) }
    }

    /// The first one, which is what a program prints that does not go on.
    pub fn first(&self) -> &Problem {
        &self.0[0]
    }

    /// Every one.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

/// One line each.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
