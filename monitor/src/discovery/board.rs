//! Where the driver puts what it sees, and where the connections read it. The facts change first, then the news goes out.

use std::collections::BTreeMap;
use std::sync::Arc;

use failover::Time;
use tokio::sync::{broadcast, watch};

use super::facts::{Facts, Fellow, Service};
use super::news::{self, Announcement};

/// A subscriber that is so many messages behind does not read, and is dropped. A thousand services that fail over at
/// once make ten thousand.
const NEWS_MAX: usize = 16 * 1024;

/// The writing side.
#[derive(Debug)]
pub(crate) struct Board {
    facts: watch::Sender<Facts>,
    named: watch::Sender<u64>,
    news: broadcast::Sender<Announcement>,
    /// What subscribers were last told of each service.
    told: BTreeMap<String, Arc<Service>>,
}

/// The reading side.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    pub(crate) facts: watch::Receiver<Facts>,
    /// Counts the changes of what is certain ([`Service::certain_now`]), of any service. The facts change with every probe of a
    /// server; who waits for a primary waits for this.
    pub(crate) named: watch::Receiver<u64>,
    pub(crate) news: broadcast::Sender<Announcement>,
}

impl Board {
    pub(crate) fn new(facts: Facts) -> Self {
        let (facts, (news, _)) = (watch::Sender::new(facts), broadcast::channel(NEWS_MAX));
        Self { facts, named: watch::Sender::new(0), news, told: BTreeMap::new() }
    }

    pub(crate) fn reader(&self) -> Reader {
        Reader { facts: self.facts.subscribe(), named: self.named.subscribe(), news: self.news.clone() }
    }

    /// The driver turns; what stands here is its present knowledge. That alone wakes nobody, unless it stood still.
    pub(crate) fn turned(&self, now: Time) {
        let stood_still = self.facts.send_if_modified(|facts| {
            let stood_still = !facts.are_fresh(now);
            facts.turned = now;
            stood_still
        });
        if stood_still {
            self.name_anew();
        }
    }

    fn name_anew(&self) {
        self.named.send_modify(|changes| *changes += 1);
    }

    /// A service as it is now, given what it was.
    pub(crate) fn service(&mut self, name: &str, observe: impl FnOnce(Option<&Service>) -> Service) {
        let (mut is, mut named_anew) = (None, false);
        self.facts.send_if_modified(|facts| {
            let slot = facts.services.get_mut(name);
            let was = slot.as_deref().map(Arc::as_ref);
            let service = observe(was);
            if was == Some(&service) {
                return false;
            }
            named_anew = was.map(Service::certain_now) != Some(service.certain_now());
            let service = Arc::new(service);
            is = Some(service.clone());
            match slot {
                Some(slot) => *slot = service,
                None => _ = facts.services.insert(name.to_owned(), service),
            }
            true
        });
        if named_anew {
            self.name_anew();
        }
        let Some(is) = is.filter(|is| is.shown().is_some()) else { return };
        let news = match self.told.get_mut(name) {
            Some(told) => {
                let was = std::mem::replace(told, is);
                news::news(name, &was, told)
            }
            None => {
                self.told.insert(name.to_owned(), is);
                return;
            }
        };
        self.announce(news);
    }

    /// Every service that is to be watched stands here now.
    pub(crate) fn listed(&mut self) {
        self.facts.send_if_modified(|facts| !std::mem::replace(&mut facts.listed, true));
    }

    /// A service that is not watched any more.
    pub(crate) fn forget(&mut self, name: &str) {
        self.facts.send_modify(|facts| drop(facts.services.remove(name)));
        self.told.remove(name);
        self.name_anew();
    }

    /// The other endpoints as they are now.
    pub(crate) fn fellows(&self, mut are: Vec<Fellow>) {
        let mut news = Vec::new();
        self.facts.send_if_modified(|facts| {
            for fellow in are.iter_mut().filter(|fellow| !fellow.up) {
                let was = facts.fellows.iter().find(|was| was.id == fellow.id);
                fellow.heard = was.map_or(fellow.heard, |was| was.heard);
            }
            let differs = facts.fellows != are;
            news = news::of_fellows(facts.services.iter(), &facts.fellows, &are);
            facts.fellows = are;
            differs
        });
        self.announce(news);
    }

    fn announce(&self, news: Vec<Announcement>) {
        for announcement in news {
            tracing::debug!("{} {}", announcement.channel, announcement.payload);
            let _ = self.news.send(announcement); // nobody listens: nobody has to be told
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::examples::{at, facts, service};
    use super::*;

    #[tokio::test]
    async fn whoever_hears_of_a_new_primary_is_told_of_it_when_asking() {
        let mut board = Board::new(facts());
        let reader = board.reader();
        let mut news = reader.news.subscribe();
        board.service("posts", |_| service(&[6379, 6380]));
        board.service("posts", |_| Service { known: false, ..service(&[6379, 6380]) });
        assert!(news.is_empty(), "the first sight is no news, nor is what is not certain");
        board.service("posts", |before| {
            assert_eq!(before.unwrap().named, Some(at(6379)));
            service(&[6380, 6379])
        });
        let first = news.recv().await.unwrap();
        assert_eq!(first.channel, "+switch-master");
        let facts = reader.facts.borrow();
        assert_eq!(facts.services["posts"].primary().unwrap().addr, at(6380));
    }

    #[test]
    fn who_waits_for_a_primary_is_woken_by_nothing_else() {
        let mut board = Board::new(facts());
        let mut reader = board.reader();
        let mut woken = |board: &mut Board, act: &dyn Fn(&mut Board)| {
            act(board);
            let woken = reader.named.has_changed().unwrap();
            reader.named.borrow_and_update();
            woken
        };
        let is = service(&[6379, 6380, 6381]);
        let with = |change: &dyn Fn(&mut Service)| {
            let mut changed = is.clone();
            change(&mut changed);
            move |board: &mut Board| board.service("posts", |_| changed.clone())
        };
        let probed = with(&|service| service.replicas[0].offset += 1);
        assert!(!woken(&mut board, &probed));
        assert!(!woken(&mut board, &|board| board.turned(Time::from_millis(10_300))));
        let grown = with(&|service| service.epoch = 8);
        assert!(woken(&mut board, &grown));
        let uncertain = with(&|service| service.known = false);
        assert!(woken(&mut board, &uncertain));
        let promoting = with(&|service| service.master.as_mut().unwrap().in_progress = true);
        assert!(woken(&mut board, &promoting), "nobody is named still, but the replicas are known again");
        assert!(woken(&mut board, &|board| board.turned(Time::from_secs(20))), "it had stood still");
        assert!(woken(&mut board, &|board| board.forget("posts")));
    }
}
