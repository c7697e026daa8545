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

/// One line, whatever stands in the file or in a variable.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, section, why, .. } = self;
        let text = match (self.line, &self.key) {
            (None, _) => format!("{file}: {why}"),
            (Some(line), None) => format!("{file}:{line}: [{section}]: {why}"),
            (Some(line), Some((key, value))) => format!("{file}:{line}: [{section}] {key} = {value}: {why}"),
        };
        f.write_str(&text.replace(char::is_control, "?"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_one_line_whatever_it_is_about() {
        let text = |text: &str| format!("{text}\r\n\u{1b}[2J");
        let problem = Problem {
            file: text("f"),
            line: Some(1),
            section: text("s"),
            key: Some((text("k"), text("v"))),
            why: text("w"),
        };
        assert_eq!(problem.to_string(), "f???[2J:1: [s???[2J] k???[2J = v???[2J: w???[2J");
        assert_eq!(Problem::file("f", "a\nb").to_string(), "f: a?b");
    }
}
