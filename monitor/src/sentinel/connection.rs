//! One connection, without its socket: which protocol it speaks, whether it has logged in, what it subscribes to, and
//! what is answered to each command.

use failover::Time;
use settings::Secret;

use super::answers::{self, Answer, quoted, wrong_number};
use super::glob;
use super::protocol::Reply;
use crate::discovery::facts::Facts;
use crate::discovery::news::Announcement;

/// All names of channels and patterns of one connection together; each costs something on top.
const SUBSCRIPTIONS_MAX: usize = 64 * 1024;
const SUBSCRIPTION_COST: usize = 64;
const NAME_MAX: usize = 256;

/// Who may log in.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    /// `default` unless configured.
    pub(crate) username: String,
    pub(crate) password: Secret,
}

/// What is to be done about a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Replies(Vec<Reply>),
    /// Answer, then close.
    Close(Reply),
    /// `SENTINEL failover`: begin it, and answer what comes of that.
    Failover(String),
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Connection<'a> {
    id: i64,
    login: Option<&'a Login>,
    logged_in: bool,
    /// The last password was not the right one.
    wrong: bool,
    resp3: bool,
    name: Vec<u8>,
    channels: Vec<Vec<u8>>,
    patterns: Vec<Vec<u8>>,
}

impl<'a> Connection<'a> {
    pub(super) fn new(id: i64, login: Option<&'a Login>) -> Self {
        let (name, channels, patterns) = (Vec::new(), Vec::new(), Vec::new());
        Self { id, login, logged_in: login.is_none(), wrong: false, resp3: false, name, channels, patterns }
    }

    /// Whether it may ask for anything.
    pub(super) fn is_logged_in(&self) -> bool {
        self.logged_in
    }

    /// Whether a wrong password was given since this was asked last.
    pub(super) fn was_wrong(&mut self) -> bool {
        std::mem::take(&mut self.wrong)
    }

    pub(super) fn speaks_resp3(&self) -> bool {
        self.resp3
    }

    pub(super) fn subscribes(&self) -> bool {
        !self.channels.is_empty() || !self.patterns.is_empty()
    }

    /// An announcement, once for each subscription that it matches.
    pub(super) fn hears(&self, news: &Announcement) -> Vec<Reply> {
        let (channel, payload) = (Reply::bulk(news.channel), Reply::bulk(news.payload.as_str()));
        let plain = self
            .channels
            .iter()
            .filter(|name| *name == news.channel.as_bytes())
            .map(|_| Reply::Push(vec![Reply::bulk("message"), channel.clone(), payload.clone()]));
        let matching = self.patterns.iter().filter(|p| glob::matches(p, news.channel.as_bytes()));
        let matching = matching.map(|pattern| {
            let pattern = Reply::bulk(pattern.as_slice());
            Reply::Push(vec![Reply::bulk("pmessage"), pattern, channel.clone(), payload.clone()])
        });
        plain.chain(matching).collect()
    }

    /// Whether a better answer to this may be there in a moment: [`answers::is_in_doubt`].
    pub(super) fn may_wait(&self, command: &[Vec<u8>], facts: &Facts, now: Time) -> bool {
        let Some((name, arguments)) = command.split_first() else { return false };
        let listens = self.subscribes() && !self.resp3; // and may ask nothing
        (self.logged_in && !listens && name.eq_ignore_ascii_case(b"sentinel"))
            && answers::is_in_doubt(facts, arguments, now)
    }

    /// One command, which has at least its name.
    pub(super) fn take(&mut self, command: &[Vec<u8>], facts: &Facts, now: Time) -> Outcome {
        let Some((name, arguments)) = command.split_first() else { return Outcome::Replies(Vec::new()) };
        let word = quoted(name).to_ascii_lowercase();
        match word.as_str() {
            "quit" => return Outcome::Close(Reply::ok()),
            // A browser was made to talk to this port, and commands may stand in what it sends. Redis does the same.
            "post" | "host:" => return Outcome::Close(Reply::error("ERR this is no HTTP port")),
            "auth" => return one(self.auth(arguments)),
            "hello" => return one(self.hello(arguments)),
            _ if !self.logged_in => return one(Reply::error("NOAUTH Authentication required.")),
            _ => {}
        }
        let listens = self.subscribes() && !self.resp3;
        match (word.as_str(), arguments) {
            ("subscribe" | "psubscribe", [_, ..]) => self.subscribe(word == "psubscribe", arguments),
            ("unsubscribe" | "punsubscribe", _) => self.unsubscribe(word == "punsubscribe", arguments),
            ("ping", [] | [_]) if listens => {
                let text = arguments.first().cloned().unwrap_or_default();
                one(Reply::Array(vec![Reply::bulk("pong"), Reply::Bulk(text)]))
            }
            ("ping", []) => one(Reply::Simple("PONG".to_owned())),
            ("ping", [text]) => one(Reply::Bulk(text.clone())),
            ("subscribe" | "psubscribe" | "ping", _) => one(wrong_number(&word)),
            _ if listens => one(Reply::error(format!(
                "ERR Can't execute '{word}': only (P)SUBSCRIBE / (P)UNSUBSCRIBE / PING / QUIT are allowed in this context"
            ))),
            ("client", _) => one(self.client(arguments)),
            ("role", []) => one(answers::role(facts)),
            ("role", _) => one(wrong_number("role")),
            ("info", sections) => one(answers::info(facts, sections, now)),
            ("sentinel", _) => match answers::sentinel(facts, arguments, now) {
                Answer::Reply(reply) => one(reply),
                Answer::Failover(name) => Outcome::Failover(name),
            },
            _ => one(Reply::error(format!(
                "ERR unknown command '{}', this is a Sentinel endpoint and holds no data",
                quoted(name)
            ))),
        }
    }

    fn auth(&mut self, arguments: &[Vec<u8>]) -> Reply {
        match (arguments, self.login) {
            ([_], None) => Reply::error(
                "ERR AUTH <password> called without any password configured for the default user. \
                 Are you sure your configuration is correct?",
            ),
            ([password], _) => self.log_in(b"default", password),
            ([user, password], _) => self.log_in(user, password),
            _ => wrong_number("auth"),
        }
    }

    fn log_in(&mut self, user: &[u8], password: &[u8]) -> Reply {
        let right = match self.login {
            // Both are looked at, so that the time does not tell which one was wrong.
            Some(login) => login.password.matches(password) & (user == login.username.as_bytes()),
            None => user == b"default",
        };
        if !right {
            self.wrong = true;
            return Reply::error("WRONGPASS invalid username-password pair or user is disabled.");
        }
        self.logged_in = true;
        Reply::ok()
    }

    fn hello(&mut self, arguments: &[Vec<u8>]) -> Reply {
        let (version, options) = match arguments.split_first() {
            None => (None, arguments),
            Some((version, options)) => (Some(version), options),
        };
        let resp3 = match version.map(|version| str::from_utf8(version).unwrap_or_default().parse::<i64>()) {
            None => self.resp3,
            Some(Ok(2)) => false,
            Some(Ok(3)) => true,
            Some(Ok(_)) => return Reply::error("NOPROTO unsupported protocol version"),
            Some(Err(_)) => return Reply::error("ERR Protocol version is not an integer or out of range"),
        };
        let (mut user, mut name, mut rest) = (None, None, options);
        while let [option, ..] = rest {
            rest = match rest {
                [word, login, password, more @ ..] if word.eq_ignore_ascii_case(b"auth") => {
                    user = Some((login, password));
                    more
                }
                [word, own, more @ ..] if word.eq_ignore_ascii_case(b"setname") => {
                    name = Some(own);
                    more
                }
                _ => return Reply::error(format!("ERR Syntax error in HELLO option '{}'", quoted(option))),
            };
        }
        if let Some(Reply::Error(wrong)) = user.map(|(user, password)| self.log_in(user, password)) {
            return Reply::Error(wrong);
        }
        if !self.logged_in {
            return Reply::error(
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
                 <user> <pass> option can be used to authenticate the client and select the RESP protocol version at \
                 the same time",
            );
        }
        if let Some(Reply::Error(wrong)) = name.map(|name| self.set_name(name)) {
            return Reply::Error(wrong);
        }
        self.resp3 = resp3;
        let field = |name: &str, value| (Reply::bulk(name), value);
        Reply::Map(vec![
            field("server", Reply::bulk("redis")),
            field("version", Reply::bulk(answers::VERSION)),
            field("proto", Reply::Integer(if resp3 { 3 } else { 2 })),
            field("id", Reply::Integer(self.id)),
            field("mode", Reply::bulk("sentinel")),
            field("modules", Reply::Array(Vec::new())),
        ])
    }

    fn set_name(&mut self, name: &[u8]) -> Reply {
        if name.len() > NAME_MAX || !name.iter().all(u8::is_ascii_graphic) {
            return Reply::error(
                "ERR Client names cannot contain spaces, newlines or special characters, nor be long.",
            );
        }
        self.name = name.to_vec();
        Reply::ok()
    }

    fn client(&mut self, arguments: &[Vec<u8>]) -> Reply {
        let Some((subcommand, rest)) = arguments.split_first() else { return wrong_number("client") };
        let word = quoted(subcommand).to_ascii_lowercase();
        match (word.as_str(), rest) {
            ("setname", [name]) => self.set_name(name),
            ("getname", []) if self.name.is_empty() => Reply::NoBulk,
            ("getname", []) => Reply::Bulk(self.name.clone()),
            ("id", []) => Reply::Integer(self.id),
            ("setinfo", [attribute, _]) => {
                let known =
                    ["lib-name", "lib-ver"].map(|known| attribute.eq_ignore_ascii_case(known.as_bytes()));
                match known.contains(&true) {
                    true => Reply::ok(),
                    false => Reply::error(format!("ERR Unrecognized option '{}'", quoted(attribute))),
                }
            }
            ("setname" | "getname" | "id" | "setinfo", _) => wrong_number(&format!("client|{word}")),
            _ => Reply::error(format!("ERR unknown subcommand '{}'", quoted(subcommand))),
        }
    }

    fn count(&self) -> Reply {
        Reply::Integer((self.channels.len() + self.patterns.len()) as i64)
    }

    fn subscribe(&mut self, patterns: bool, names: &[Vec<u8>]) -> Outcome {
        let kind = if patterns { "psubscribe" } else { "subscribe" };
        let mut replies = Vec::new();
        for name in names {
            let all = self.channels.iter().chain(&self.patterns);
            let taken: usize = all.map(|name| name.len() + SUBSCRIPTION_COST).sum();
            if taken + name.len() + SUBSCRIPTION_COST > SUBSCRIPTIONS_MAX {
                replies.push(Reply::error("ERR too many subscriptions on one connection"));
                break;
            }
            let list = if patterns { &mut self.patterns } else { &mut self.channels };
            if !list.contains(name) {
                list.push(name.clone());
            }
            replies.push(Reply::Push(vec![Reply::bulk(kind), Reply::Bulk(name.clone()), self.count()]));
        }
        Outcome::Replies(replies)
    }

    fn unsubscribe(&mut self, patterns: bool, names: &[Vec<u8>]) -> Outcome {
        let kind = if patterns { "punsubscribe" } else { "unsubscribe" };
        let names = match (names, patterns) {
            ([], true) => self.patterns.clone(),
            ([], false) => self.channels.clone(),
            (names, _) => names.to_vec(),
        };
        if names.is_empty() {
            let nothing = Reply::Push(vec![Reply::bulk(kind), Reply::NoBulk, self.count()]);
            return one(nothing);
        }
        let replies = names.into_iter().map(|name| {
            let list = if patterns { &mut self.patterns } else { &mut self.channels };
            list.retain(|other| *other != name);
            Reply::Push(vec![Reply::bulk(kind), Reply::Bulk(name), self.count()])
        });
        Outcome::Replies(replies.collect())
    }
}

fn one(reply: Reply) -> Outcome {
    Outcome::Replies(vec![reply])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::facts::examples::facts;

    /// The bytes that one command is answered with.
    fn said(connection: &mut Connection<'_>, words: &str) -> String {
        let words: Vec<Vec<u8>> = words.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        let mut out = Vec::new();
        match connection.take(&words, &facts(), Time::from_secs(10)) {
            Outcome::Replies(all) => all.iter().for_each(|reply| reply.write(connection.resp3, &mut out)),
            Outcome::Close(reply) => {
                reply.write(connection.resp3, &mut out);
                out.extend(b"closed");
            }
            Outcome::Failover(name) => out.extend(format!("failover of {name}").into_bytes()),
        }
        String::from_utf8(out).unwrap()
    }

    fn open() -> Connection<'static> {
        Connection::new(7, None)
    }

    fn bulks(kind: char, words: &[&str]) -> String {
        let words: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        format!("{kind}{}\r\n{words}", words.matches('$').count())
    }

    #[test]
    fn plain_commands() {
        for (words, expected) in [
            ("PING", "+PONG\r\n"),
            ("ping x", "$1\r\nx\r\n"),
            ("ping x y", "-ERR wrong number of arguments for 'ping' command\r\n"),
            ("ROLE", "*2\r\n$8\r\nsentinel\r\n*1\r\n$5\r\nposts\r\n"),
            ("ROLE x", "-ERR wrong number of arguments for 'role' command\r\n"),
            ("QUIT", "+OK\r\nclosed"),
            ("GET x", "-ERR unknown command 'GET', this is a Sentinel endpoint and holds no data\r\n"),
            ("SENTINEL", "-ERR wrong number of arguments for 'sentinel' command\r\n"),
            ("sentinel GET-MASTER-ADDR-BY-NAME posts", "*2\r\n$8\r\n10.0.0.1\r\n$4\r\n6379\r\n"),
            ("sentinel get-master-addr-by-name other", "*-1\r\n"),
            ("sentinel failover posts", "failover of posts"),
            ("CLIENT SETNAME me", "+OK\r\n"),
            ("CLIENT GETNAME", "$-1\r\n"),
            ("CLIENT ID", ":7\r\n"),
            ("CLIENT SETINFO LIB-NAME x", "+OK\r\n"),
            ("CLIENT SETINFO lib-ver x", "+OK\r\n"),
            ("CLIENT SETINFO lib-colour x", "-ERR Unrecognized option 'lib-colour'\r\n"),
            ("CLIENT MAINT_NOTIFICATIONS ON", "-ERR unknown subcommand 'MAINT_NOTIFICATIONS'\r\n"),
            ("CLIENT SETNAME", "-ERR wrong number of arguments for 'client|setname' command\r\n"),
            ("CLIENT", "-ERR wrong number of arguments for 'client' command\r\n"),
            ("SUBSCRIBE", "-ERR wrong number of arguments for 'subscribe' command\r\n"),
        ] {
            assert_eq!(said(&mut open(), words), expected, "{words}");
        }
        let mut named = open();
        said(&mut named, "client setname me");
        assert_eq!(said(&mut named, "client getname"), "$2\r\nme\r\n");
    }

    #[test]
    fn hello_changes_the_protocol_and_back() {
        let mut connection = open();
        let fields = "$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\nproto\r\n:N\r\n$2\r\nid\r\n:7\r\n\
             $4\r\nmode\r\n$8\r\nsentinel\r\n$7\r\nmodules\r\n*0\r\n";
        let resp = |begin: &str, proto: &str| format!("{begin}\r\n{}", fields.replace(":N", proto));
        assert_eq!(said(&mut connection, "HELLO"), resp("*12", ":2"));
        assert_eq!(said(&mut connection, "HELLO 3 SETNAME me"), resp("%6", ":3"));
        assert_eq!(said(&mut connection, "client getname"), "$2\r\nme\r\n");
        assert_eq!(said(&mut connection, "sentinel get-master-addr-by-name other"), "_\r\n");
        assert!(
            said(&mut connection, "sentinel master posts")
                .starts_with("%20\r\n$4\r\nname\r\n$5\r\nposts\r\n$2\r\nip")
        );
        assert!(said(&mut connection, "HELLO 9").starts_with("-NOPROTO "));
        assert!(said(&mut connection, "HELLO x").starts_with("-ERR Protocol version"));
        assert!(
            said(&mut connection, "HELLO 2 AUTH x").starts_with("-ERR Syntax error in HELLO option 'AUTH'")
        );
        assert_eq!(said(&mut connection, "HELLO"), resp("%6", ":3"), "an error changes nothing");
        assert_eq!(said(&mut connection, "HELLO 2"), resp("*12", ":2"));
        assert!(said(&mut connection, "sentinel master posts").starts_with("*40\r\n$4\r\nname\r\n"));
    }

    #[test]
    fn without_a_password() {
        assert!(said(&mut open(), "AUTH x").starts_with("-ERR AUTH"));
        assert_eq!(said(&mut open(), "AUTH default x"), "+OK\r\n");
        assert!(said(&mut open(), "AUTH other x").starts_with("-WRONGPASS"));
        assert!(said(&mut open(), "HELLO 3 AUTH default x").starts_with("%6"));
        assert!(said(&mut open(), "AUTH").contains("wrong number of arguments"));
        assert!(said(&mut open(), "AUTH a b c").contains("wrong number of arguments"));
    }

    #[test]
    fn with_a_password() {
        let login = |username: &str| Login { username: username.into(), password: Secret::new("secret") };
        let default = login("default");
        let mut connection = Connection::new(1, Some(&default));
        for refused in
            ["PING", "HELLO", "HELLO 3", "SUBSCRIBE x", "SENTINEL masters", "ROLE", "nonsense", "INFO"]
        {
            assert!(said(&mut connection, refused).starts_with("-NOAUTH"), "{refused}");
        }
        for wrong in [
            "AUTH wrong",
            "AUTH secre",
            "AUTH secrets",
            "AUTH other secret",
            "HELLO 3 AUTH default wrong",
            "HELLO 3 AUTH other secret",
        ] {
            assert!(said(&mut connection, wrong).starts_with("-WRONGPASS"), "{wrong}");
            assert!(said(&mut connection, "PING").starts_with("-NOAUTH"), "{wrong}");
        }
        assert!(!connection.subscribes() && !connection.speaks_resp3());
        assert_eq!(said(&mut connection, "AUTH secret"), "+OK\r\n");
        assert_eq!(said(&mut connection, "PING"), "+PONG\r\n");
        for (username, right) in [
            ("default", "HELLO 3 AUTH default secret"),
            ("default", "AUTH default secret"),
            ("u", "AUTH u secret"),
        ] {
            let login = login(username);
            let mut connection = Connection::new(1, Some(&login));
            assert!(!said(&mut connection, right).starts_with('-'), "{right}");
            assert_eq!(said(&mut connection, "PING"), "+PONG\r\n", "{right}");
        }
        let named = login("u");
        assert!(said(&mut Connection::new(1, Some(&named)), "AUTH secret").starts_with("-WRONGPASS"));
        assert_eq!(said(&mut Connection::new(1, Some(&named)), "QUIT"), "+OK\r\nclosed");
    }

    #[test]
    fn subscriptions_are_confirmed_one_by_one() {
        let mut connection = open();
        let confirmed = |kind: &str, name: &str, count: u8| {
            format!("*3\r\n${}\r\n{kind}\r\n${}\r\n{name}\r\n:{count}\r\n", kind.len(), name.len())
        };
        let nothing =
            |kind: &str, count: u8| format!("*3\r\n${}\r\n{kind}\r\n$-1\r\n:{count}\r\n", kind.len());
        assert_eq!(said(&mut connection, "UNSUBSCRIBE"), nothing("unsubscribe", 0));
        let both = confirmed("subscribe", "a", 1) + &confirmed("subscribe", "43", 2);
        assert_eq!(said(&mut connection, "SUBSCRIBE a 43"), both);
        assert_eq!(said(&mut connection, "subscribe a"), confirmed("subscribe", "a", 2));
        assert_eq!(said(&mut connection, "PSUBSCRIBE [-+]*"), confirmed("psubscribe", "[-+]*", 3));
        assert_eq!(said(&mut connection, "PING"), bulks('*', &["pong", ""]));
        assert!(said(&mut connection, "SENTINEL masters").starts_with("-ERR Can't execute 'sentinel'"));
        assert_eq!(said(&mut connection, "unsubscribe b"), confirmed("unsubscribe", "b", 3));
        let both = confirmed("unsubscribe", "a", 2) + &confirmed("unsubscribe", "43", 1);
        assert_eq!(said(&mut connection, "unsubscribe"), both);
        assert_eq!(said(&mut connection, "unsubscribe"), nothing("unsubscribe", 1));
        assert_eq!(said(&mut connection, "PUNSUBSCRIBE"), confirmed("punsubscribe", "[-+]*", 0));
        assert_eq!(said(&mut connection, "PING"), "+PONG\r\n");
    }

    #[test]
    fn a_browser_is_cut_off() {
        let mut connection = open();
        for line in ["POST / HTTP/1.1", "Host: 127.0.0.1:26379", "host: a"] {
            let words: Vec<Vec<u8>> = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
            let outcome = connection.take(&words, &facts(), Time::ZERO);
            assert!(matches!(outcome, Outcome::Close(Reply::Error(_))), "{line}");
        }
    }

    #[test]
    fn messages_in_both_protocols() {
        let mut connection = open();
        said(&mut connection, "subscribe +switch-master");
        said(&mut connection, "psubscribe [+]s* -*");
        let news = Announcement { channel: "+switch-master", payload: "posts a 1 b 2".into() };
        let heard = |connection: &Connection<'_>, news: &Announcement| {
            let mut out = Vec::new();
            connection.hears(news).iter().for_each(|reply| reply.write(connection.resp3, &mut out));
            String::from_utf8(out).unwrap()
        };
        let both = |kind| {
            bulks(kind, &["message", "+switch-master", "posts a 1 b 2"])
                + &bulks(kind, &["pmessage", "[+]s*", "+switch-master", "posts a 1 b 2"])
        };
        assert_eq!(heard(&connection, &news), both('*'));
        assert_eq!(heard(&connection, &Announcement { channel: "+odown", payload: "x".into() }), "");
        let mut connection = open();
        said(&mut connection, "hello 3");
        assert!(said(&mut connection, "subscribe +switch-master").starts_with(">3\r\n"));
        said(&mut connection, "psubscribe [+]s*");
        assert_eq!(heard(&connection, &news), both('>'));
        assert_eq!(said(&mut connection, "PING"), "+PONG\r\n", "any command works");
        assert!(said(&mut connection, "SENTINEL masters").starts_with("*1\r\n%"));
        assert_eq!(said(&mut open(), "hello 3 unknown").get(..4), Some("-ERR"));
    }

    #[test]
    fn subscriptions_are_bounded() {
        let mut connection = open();
        let long = "x".repeat(SUBSCRIPTIONS_MAX);
        assert!(
            said(&mut connection, &format!("subscribe a {long} b")).contains("-ERR too many subscriptions")
        );
        assert_eq!(connection.channels.len(), 1);
        for number in 0..2000 {
            said(&mut connection, &format!("subscribe {number}"));
        }
        assert!(connection.channels.len() <= SUBSCRIPTIONS_MAX / SUBSCRIPTION_COST);
    }
}
