//! The services of this monitor, by name for whoever asks for one, and by number for what thousands of servers say ten times a
//! second: a name is found by comparing it with others, each somewhere else in memory, a number at once.

use std::collections::{BTreeMap, HashMap};

use crate::service::{Service, ServiceId};

/// All services. Each stands here under one name and one number.
#[derive(Default)]
pub(super) struct Roster {
    numbers: BTreeMap<String, u64>,
    /// By [`ServiceId::incarnation`].
    services: HashMap<u64, Service>,
}

impl Roster {
    /// Takes in a service in place of one of the same name.
    pub(super) fn insert(&mut self, service: Service) {
        self.remove(&service.id.name.clone());
        self.numbers.insert(service.id.name.to_string(), service.id.incarnation);
        self.services.insert(service.id.incarnation, service);
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Service> {
        self.services.remove(&self.numbers.remove(name)?)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Service> {
        self.services.get(self.numbers.get(name)?)
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Service> {
        self.services.get_mut(self.numbers.get(name)?)
    }

    /// The very service that something is about, unless it is gone.
    pub(super) fn this_one(&mut self, id: &ServiceId) -> Option<&mut Service> {
        self.services.get_mut(&id.incarnation)
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.numbers.contains_key(name)
    }

    pub(super) fn count(&self) -> usize {
        self.services.len()
    }

    /// In the order of the names.
    pub(super) fn names(&self) -> Vec<String> {
        self.numbers.keys().cloned().collect()
    }

    /// In the order of the names.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Service> {
        self.numbers.values().filter_map(|number| self.services.get(number))
    }

    /// In no order.
    pub(super) fn each(&mut self) -> impl Iterator<Item = &mut Service> {
        self.services.values_mut()
    }
}
