//! Where the driver puts what it sees, and where the connections read it. The facts change first, then the news goes out.

use std::collections::BTreeMap;

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
    news: broadcast::Sender<Announcement>,
    /// What subscribers were last told of each service.
    told: BTreeMap<String, Service>,
}

/// The reading side.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    pub(crate) facts: watch::Receiver<Facts>,
    pub(crate) news: broadcast::Sender<Announcement>,
}

impl Board {
    pub(crate) fn new(facts: Facts) -> Self {
        let (facts, (news, _)) = (watch::Sender::new(facts), broadcast::channel(NEWS_MAX));
        Self { facts, news, told: BTreeMap::new() }
    }

    pub(crate) fn reader(&self) -> Reader {
        Reader { facts: self.facts.subscribe(), news: self.news.clone() }
    }

    /// The driver turns; what stands here is its present knowledge.
    pub(crate) fn turned(&self, now: Time) {
        self.facts.send_modify(|facts| facts.turned = now);
    }

    /// A service as it is now, given what it was.
    pub(crate) fn service(&mut self, name: &str, observe: impl FnOnce(Option<&Service>) -> Service) {
        let mut is = None;
        self.facts.send_if_modified(|facts| {
            let service = observe(facts.services.get(name));
            let differs = facts.services.get(name) != Some(&service);
            if differs {
                is = Some(service.clone());
                facts.services.insert(name.to_owned(), service);
            }
            differs
        });
        let Some(is) = is.filter(|is| is.shown().is_some()) else { return };
        if let Some(told) = self.told.get(name) {
            self.announce(news::news(name, told, &is));
        }
        self.told.insert(name.to_owned(), is);
    }

    /// Every service that is to be watched stands here now.
    pub(crate) fn listed(&mut self) {
        self.facts.send_if_modified(|facts| !std::mem::replace(&mut facts.listed, true));
    }

    /// A service that is not watched any more.
    pub(crate) fn forget(&mut self, name: &str) {
        self.facts.send_modify(|facts| drop(facts.services.remove(name)));
        self.told.remove(name);
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
}
