//! What is known of one server that may not be answering (R10). Safety rests on nothing in here.
//!
//! Silence counts from the last byte received, or from the first question or the end of the first attempt to reach the server:
//! one that nobody has tried to reach yet is not silent. A paused process accepts connections, the kernel does that for it, so an open connection is no
//! sign of life. A closed connection whose successor is refused is a process that is gone; everything else is only late.

use core::time::Duration;

use crate::Time;

/// What was heard of one server, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detector {
    last_byte: Time,
    /// The same, but of what was heard in truth: silence that is measured anew changes nothing of it.
    last_heard: Time,
    /// It was asked, or an attempt to reach it has failed.
    tried: bool,
    /// A question was not answered, and whoever asked has looked: since then.
    unanswered: Option<Time>,
    heard: bool,
    link: Link,
    trouble: Option<Trouble>,
    /// Since when nothing but errors came.
    troubled_since: Option<Time>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Open,
    Closed { since: Time, refused: Option<Time> },
}

/// A server that answers, but not with what was asked for. None of these is ever taken for "down".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It is reading its data set from disk.
    Loading,
    /// A script or a module command blocks it.
    Busy,
    /// It refuses our password or user.
    Login,
    /// It answers something that is no answer to our question.
    Strange,
}

/// The state of a server as this monitor sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Nothing heard yet since this monitor started to look.
    Unknown,
    /// It answers.
    Up,
    /// The connection is gone, or an answer is late; within the limits.
    Suspect,
    /// It answers with an error.
    Troubled(Trouble),
    /// A new connection was refused; the old one was closed at that moment.
    Refused(Time),
    /// No byte for `down_after`; the limit was over at that moment.
    Silent(Time),
}

impl Detector {
    /// A detector for a server that is looked at from now on.
    pub fn new(now: Time) -> Self {
        let link = Link::Closed { since: now, refused: None };
        Self {
            last_byte: now,
            last_heard: now,
            tried: false,
            unanswered: None,
            heard: false,
            link,
            trouble: None,
            troubled_since: None,
        }
    }

    /// It is asked for the first time, or the first attempt to reach it has failed. It may have had to wait: a monitor that has
    /// just begun greets a few of thousands at a time.
    pub fn tried(&mut self, now: Time) {
        if !self.tried {
            (self.tried, self.last_byte, self.last_heard) = (true, now, now);
        }
    }

    /// A connection was opened. The kernel does that; it is no sign of life.
    pub fn opened(&mut self, now: Time) {
        self.link = Link::Open;
        self.tried(now);
    }

    /// The process at the other end said who it is.
    pub fn greeted(&mut self, now: Time) {
        (self.tried, self.unanswered, self.last_byte, self.last_heard) = (true, None, now, now);
    }

    /// The connection was closed by the other side or broke.
    pub fn closed(&mut self, now: Time) {
        if self.link == Link::Open {
            self.link = Link::Closed { since: now, refused: None };
        }
    }

    /// A new connection was refused: nobody listens there.
    pub fn refused(&mut self, now: Time) {
        if let Link::Closed { refused: refused @ None, .. } = &mut self.link {
            *refused = Some(now);
        }
    }

    /// Bytes came. With `trouble`, they were an error.
    pub fn heard(&mut self, now: Time, trouble: Option<Trouble>) {
        (self.last_byte, self.last_heard) = (now, now);
        (self.tried, self.heard, self.unanswered) = (true, true, None);
        self.trouble = trouble;
        self.troubled_since = trouble.map(|_| self.troubled_since.unwrap_or(now));
    }

    /// R13: the monitor itself stood still, so the silence that it thinks it saw is its own. Measure anew.
    pub fn forget_silence(&mut self, now: Time) {
        self.unanswered = None;
        self.unheard(now);
        if let Link::Closed { since, refused } = &mut self.link {
            (*since, *refused) = (now, None);
        }
    }

    /// What it has said may not have been heard, and it may not have been asked: the silence before is none. Unless it is certain:
    /// a monitor that is always late must find a death, too.
    pub fn unheard(&mut self, now: Time) {
        if self.unanswered.is_none() {
            self.last_byte = now;
            self.troubled_since = self.troubled_since.map(|_| now);
        }
    }

    /// It was asked at least `down_after` ago, and nothing has come by now. Whoever tells this has looked just now, however late.
    pub fn unanswered(&mut self, now: Time) {
        self.tried = true;
        self.unanswered.get_or_insert(now);
    }

    /// Since when nothing came but errors; none while answers come, or nothing at all.
    pub fn troubled_since(&self) -> Option<Time> {
        self.troubled_since
    }

    /// Since when its silence counts: when the last byte came, or it was first tried, or the silence was measured anew.
    pub fn last_byte(&self) -> Time {
        self.last_byte
    }

    /// When the last byte came, or it was first tried.
    pub fn last_heard(&self) -> Time {
        self.last_heard
    }

    /// The verdict at this moment. `late_after` is when an answer counts as late, `down_after` when silence counts
    /// as down, `refused_grace` how long a refusal must last.
    pub fn health(&self, now: Time, late_after: Duration, down_after: Duration, grace: Duration) -> Health {
        if let Link::Closed { since, refused: Some(at) } = self.link
            && now >= at + grace
        {
            return Health::Refused(since);
        }
        let by_the_clock = self.tried.then(|| self.last_byte + down_after);
        let silent = [by_the_clock, self.unanswered].into_iter().flatten().min();
        if let Some(at) = silent
            && now >= at
        {
            return Health::Silent(at);
        }
        match (self.link, self.trouble) {
            _ if !self.heard => Health::Unknown,
            (Link::Open, Some(trouble)) => Health::Troubled(trouble),
            // Servers that refuse our login close the connection or are asked again over a new one.
            (Link::Closed { refused: None, .. }, Some(Trouble::Login)) => Health::Troubled(Trouble::Login),
            (Link::Closed { .. }, _) => Health::Suspect,
            (Link::Open, None) if now >= self.last_byte + late_after => Health::Suspect,
            (Link::Open, None) => Health::Up,
        }
    }

    /// When the verdict changes next if nothing is heard.
    pub fn deadline(&self, now: Time, down_after: Duration, grace: Duration) -> Option<Time> {
        let refused = match self.link {
            Link::Closed { refused: Some(at), .. } => Some(at + grace),
            Link::Closed { refused: None, .. } | Link::Open => None,
        };
        let silent = self.tried.then(|| self.last_byte + down_after); // what is certain was so at once
        [refused, silent].into_iter().flatten().filter(|at| *at > now).min()
    }
}

impl Health {
    /// The moment since which the server counts as gone, if it does.
    pub fn gone_since(self) -> Option<Time> {
        match self {
            Health::Refused(at) | Health::Silent(at) => Some(at),
            Health::Unknown | Health::Up | Health::Suspect | Health::Troubled(_) => None,
        }
    }

    /// One word for status and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Health::Unknown => "unknown",
            Health::Up => "up",
            Health::Suspect => "suspect",
            Health::Troubled(Trouble::Loading) => "loading",
            Health::Troubled(Trouble::Busy) => "busy",
            Health::Troubled(Trouble::Login) => "login refused",
            Health::Troubled(Trouble::Strange) => "strange answer",
            Health::Refused(_) => "refused",
            Health::Silent(_) => "silent",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Time {
        Duration::from_millis(n)
    }

    fn at(d: &Detector, now: u64) -> Health {
        d.health(ms(now), ms(200), ms(500), ms(0))
    }

    #[test]
    fn a_closed_connection_and_a_refused_one_is_gone_at_once() {
        let mut d = Detector::new(ms(0));
        assert_eq!(at(&d, 1), Health::Unknown);
        d.opened(ms(5));
        d.heard(ms(10), None);
        assert_eq!(at(&d, 11), Health::Up);
        d.closed(ms(20));
        assert_eq!(at(&d, 20), Health::Suspect);
        d.refused(ms(21));
        assert_eq!(at(&d, 21), Health::Refused(ms(20)));
        assert_eq!(d.health(ms(21), ms(200), ms(500), ms(30)), Health::Suspect, "within refused_grace");
        d.opened(ms(22));
        assert_eq!(at(&d, 22), Health::Up, "a new process took the connection and the last byte is fresh");
    }

    #[test]
    fn silence_counts_from_the_last_byte_and_an_open_connection_does_not_end_it() {
        let mut d = Detector::new(ms(0));
        d.opened(ms(0));
        d.heard(ms(10), None);
        assert_eq!(at(&d, 210), Health::Suspect);
        d.closed(ms(300));
        d.opened(ms(305));
        assert_eq!(at(&d, 509), Health::Suspect);
        assert_eq!(at(&d, 510), Health::Silent(ms(510)));
        assert_eq!(d.deadline(ms(300), ms(500), ms(0)), Some(ms(510)));
        d.greeted(ms(505));
        assert_eq!(at(&d, 1004), Health::Suspect, "the process said who it is");
        assert_eq!(at(&d, 1005), Health::Silent(ms(1005)));
    }

    #[test]
    fn nobody_is_silent_before_he_was_tried() {
        let mut d = Detector::new(ms(0));
        assert_eq!((at(&d, 9000), d.deadline(ms(0), ms(500), ms(0))), (Health::Unknown, None));
        d.tried(ms(9000));
        d.tried(ms(9400));
        assert_eq!(at(&d, 9499), Health::Unknown);
        assert_eq!(at(&d, 9500), Health::Silent(ms(9500)), "counted from the first attempt");
        assert_eq!(d.deadline(ms(9000), ms(500), ms(0)), Some(ms(9500)));
        let mut d = Detector::new(ms(0));
        d.opened(ms(9000));
        assert_eq!((at(&d, 9499), at(&d, 9500)), (Health::Unknown, Health::Silent(ms(9500))));
    }

    #[test]
    fn an_error_is_an_answer() {
        let mut d = Detector::new(ms(0));
        d.opened(ms(0));
        for trouble in [Trouble::Loading, Trouble::Busy, Trouble::Login, Trouble::Strange] {
            d.heard(ms(10), Some(trouble));
            assert_eq!(at(&d, 400), Health::Troubled(trouble));
        }
        d.closed(ms(410));
        d.heard(ms(415), Some(Trouble::Login));
        assert_eq!(at(&d, 420), Health::Troubled(Trouble::Login));
        d.refused(ms(421));
        assert_eq!(at(&d, 421), Health::Refused(ms(410)), "a wrong password does not hide a death");
    }

    #[test]
    fn a_stall_of_our_own_is_not_the_servers_silence() {
        let mut d = Detector::new(ms(0));
        d.opened(ms(0));
        d.heard(ms(10), None);
        d.forget_silence(ms(5000));
        assert_eq!(at(&d, 5001), Health::Up);
        assert_eq!(at(&d, 5500), Health::Silent(ms(5500)));
        d.unheard(ms(6000));
        assert_eq!((at(&d, 6001), at(&d, 6500)), (Health::Up, Health::Silent(ms(6500))));
        d.closed(ms(6600));
        d.refused(ms(6601));
        d.unheard(ms(6700));
        assert_eq!(at(&d, 6700), Health::Refused(ms(6600)), "that nobody listens is no silence");
    }

    #[test]
    fn a_question_without_an_answer_is_silence_however_late_we_are() {
        let mut d = Detector::new(ms(0));
        d.opened(ms(0));
        d.heard(ms(10), None);
        d.unheard(ms(500));
        d.unheard(ms(900));
        assert_eq!(at(&d, 1000), Health::Up);
        assert_eq!((d.last_byte(), d.last_heard()), (ms(900), ms(10)));
        d.unanswered(ms(1000));
        d.unheard(ms(1100));
        d.unanswered(ms(1200));
        d.closed(ms(1200));
        d.opened(ms(1201));
        assert_eq!(at(&d, 1300), Health::Silent(ms(1000)));
        d.greeted(ms(1400));
        assert_eq!(at(&d, 1401), Health::Up);
        d.unanswered(ms(2000));
        assert_eq!(at(&d, 2000), Health::Silent(ms(1900)), "by the clock it was before");
        d.heard(ms(2100), Some(Trouble::Busy));
        assert_eq!(at(&d, 2101), Health::Troubled(Trouble::Busy));
        d.unanswered(ms(2200));
        d.forget_silence(ms(2300));
        assert_eq!(at(&d, 2301), Health::Troubled(Trouble::Busy), "who stood still has not looked");
    }
}
