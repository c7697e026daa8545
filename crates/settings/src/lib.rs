//! The INI files of all Albireo programs: keys with their lines, checked once, every mistake named.
//!
//! A program declares a [`Schema`] of its sections and keys, parses its file to an [`Ini`], and reads typed values
//! through a [`Reader`], which collects every mistake instead of stopping at the first. A mistake is one line,
//! `FILE:LINE: [SECTION] KEY = VALUE: why`; values of secret keys are printed as `***`.
//!
//! # The format
//! * `[section]`, then lines `key = value`; spaces around names and values do not matter, names are lower case.
//! * A line that begins with `;` or `#` is a comment. So is the rest of a line from a `;` or `#` **with white space
//!   before it**: `hosts = a:1 ; the old one` has the value `a:1`, `password = a;b#c` the value `a;b#c`. For a
//!   secret the two readings cannot be told apart, so white space before `;` or `#` is an error there; such a
//!   value can stand in a file of its own (`file:PATH`).
//! * Quotes, backslashes and `$` mean themselves.
//! * A section or key that stands twice is an error, and so are unknown ones.
//!
//! # The environment
//! `ALBIREO_SECTION_KEY` overrides a key: both names in upper case, every character that is neither letter nor
//! digit as `_`, for example `ALBIREO_BINARY_STAR_HEARTBEAT_MS`. Sections and keys that carry an address
//! (`[redis:10.0.0.1:6379]`, `priority.10.0.0.1:6379`) can be overridden where they stand in the file:
//! `ALBIREO_REDIS_10_0_0_1_6379_PASSWORD`. An empty variable overrides nothing. In a mistake the name of the
//! variable stands for the file, with line 1.
//!
//! No I/O happens here: the text, the environment and a function that reads `file:PATH` come from the program.
//!
//! ```
//! use settings::{Ini, Key, Reader, Schema, Section};
//! const SCHEMA: Schema = Schema::new(&[Section::new("lamp", &[Key::plain("watts"), Key::secret("code")])]);
//! let ini = Ini::parse(b"[lamp]\nwatts = 1000\ncode = 1234", "lamp.ini", [], &SCHEMA);
//! let mut reader = Reader::new(&ini, &|_| Err("no files here".to_string()));
//! let watts: u32 = reader.section("lamp").integer("watts", 40, 1..=500, "W");
//! let problems = reader.finish().unwrap_err();
//! assert_eq!(problems.to_string(), "lamp.ini:2: [lamp] watts = 1000: not between 1 and 500 W");
//! assert_eq!(watts, 40);
//! ```

mod ensemble;
mod ini;
mod nearest;
mod problem;
mod reader;
mod schema;
mod shared;

pub use ensemble::{Ensemble, EnsembleError};
pub use ini::{Change, Ini};
pub use problem::{Problem, Problems};
pub use reader::{ReadFile, Reader, Secret, SectionReader};
pub use schema::{Key, Schema, Section};
pub use shared::{
    Credentials, LOG, LogFormat, LogLevel, LogSettings, REDIS, REDIS_MEMBER, RedisSettings, ZOOKEEPER,
    ZookeeperSettings, misplaced,
};
