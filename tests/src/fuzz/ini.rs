//! INI files: every mistake is one line, no secret is in it, and what is read can be written and read again.

use settings::{
    Ini, Key, LOG, LogSettings, Problems, REDIS, REDIS_MEMBER, Reader, RedisSettings, Schema, Section,
    ZOOKEEPER, ZookeeperSettings,
};
use topology::ZnodePath;

use super::records::assert_is_a_line;

const PLAIN: [&str; 4] = ["number", "word", "list", "file"];
const SCHEMA: Schema = Schema::new(&[
    Section::new(
        "lamp",
        &[
            Key::plain(PLAIN[0]),
            Key::plain(PLAIN[1]),
            Key::plain(PLAIN[2]),
            Key::plain(PLAIN[3]),
            Key::secret("code"),
            Key::per_address("priority"),
        ],
    ),
    ZOOKEEPER,
    REDIS,
    REDIS_MEMBER,
    LOG,
]);

/// The text of a file; behind a zero byte, and each behind another one, variables as `NAME=VALUE`.
pub fn check(data: &[u8]) {
    let (text, variables) = match data.iter().position(|byte| *byte == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[][..]),
    };
    let variables: Vec<(String, String)> = variables
        .split(|byte| *byte == 0)
        .filter_map(|variable| std::str::from_utf8(variable).ok()?.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let read = Read::of(text, &variables);
    if let Err(problems) = &read.problems {
        assert!(problems.iter().count() > 0);
        problems.iter().for_each(|problem| assert_is_a_line(&problem.to_string()));
    }
    says_nothing_of_the_secret(text, &variables, &read);
    if read.problems.is_ok() && variables.is_empty() {
        let again = Read::of(read.canonical().as_bytes(), &[]);
        assert_eq!(again.problems, Ok(()), "{}", read.canonical());
        assert_eq!(again.canonical(), read.canonical());
    }
}

struct Read {
    problems: Result<(), Problems>,
    values: Vec<(&'static str, String)>,
    code: Option<Vec<u8>>,
}

impl Read {
    fn of(text: &[u8], variables: &[(String, String)]) -> Self {
        let ini = Ini::parse(text, "lamp.ini", variables.iter().cloned(), &SCHEMA);
        let file = |path: &str| match path.len() % 4 {
            0 => Err("gone".to_owned()),
            1 => Ok(b"\xff".to_vec()),
            2 => Ok(b"\r\n".to_vec()),
            _ => Ok(b"content\n".to_vec()),
        };
        let mut reader = Reader::new(&ini, &file);
        let mut lamp = reader.section("lamp");
        let number: u16 = lamp.integer(PLAIN[0], 40, 1..=500, "W");
        assert!((1..=500).contains(&number));
        let _ = (lamp.choice(PLAIN[1], &[("on", 1), ("off", 2)]), lamp.switch(PLAIN[1], true));
        let _ = lamp.list::<ZnodePath>(PLAIN[2]);
        let _ = lamp.secret_file(PLAIN[3]);
        let code = lamp.secret("code").map(|code| code.expose().to_vec());
        for (_, key) in lamp.addresses("priority") {
            assert!((0..=9).contains(&lamp.integer(&key, 5, 0..=9, "")));
        }
        let values = PLAIN.iter().filter_map(|key| Some((*key, lamp.text_or_empty(key)?))).collect();
        let zookeeper = ZookeeperSettings::read(&mut reader);
        ZookeeperSettings::needs_a_service(&mut reader);
        let redis = RedisSettings::read(&mut reader);
        redis.members.keys().for_each(|addr| drop(redis.credentials(addr)));
        let _ = LogSettings::read(&mut reader);
        let problems = reader.finish();
        assert!(problems.is_err() || zookeeper.is_some());
        Self { problems, values, code }
    }

    /// As few words as say the same.
    fn canonical(&self) -> String {
        let values: Vec<String> =
            self.values.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        format!("[zookeeper]\nhosts = a:1\npath = /x\n[lamp]\n{}", values.concat())
    }
}

/// With another secret the mistakes are the same.
fn says_nothing_of_the_secret(text: &[u8], variables: &[(String, String)], read: &Read) {
    let Some(code) = read.code.as_deref().filter(|code| code.iter().all(u8::is_ascii_alphanumeric)) else {
        return;
    };
    let at: Vec<usize> = (0..text.len()).filter(|at| text[*at..].starts_with(code)).collect();
    if let [at] = at[..] {
        let other = [&text[..at], &vec![b'x'; code.len()][..], &text[at + code.len()..]].concat();
        assert_eq!(Read::of(&other, variables).problems, read.problems);
    }
}
