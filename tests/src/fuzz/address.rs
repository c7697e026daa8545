//! Addresses and paths: what is taken is what others take, too, and is the same when it is written and read again.

use std::net::SocketAddr;

use settings::Ensemble;
use topology::{Endpoint, ZnodePath};

/// The bytes as text of each kind.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(endpoint) = text.parse::<Endpoint>() {
        is_endpoint(&endpoint);
    }
    // What the system takes for an address and a port is one.
    if let Ok(addr) = text.parse::<SocketAddr>()
        && addr.port() != 0
        && !text.contains('%')
    {
        assert_eq!(text.parse(), Ok(Endpoint::from(addr)));
    }
    if let Ok(path) = text.parse::<ZnodePath>() {
        is_path(&path);
    }
    if let Ok(ensemble) = text.parse::<Ensemble>() {
        assert!(!ensemble.hosts().is_empty());
        ensemble.hosts().iter().for_each(is_endpoint);
        ensemble.chroot().into_iter().for_each(is_path);
        assert_eq!(ensemble.to_string().parse(), Ok(ensemble));
    }
}

pub(super) fn is_endpoint(endpoint: &Endpoint) {
    let text = endpoint.to_string();
    assert_eq!(text.parse().as_ref(), Ok(endpoint));
    assert_ne!(endpoint.port(), 0);
    assert!((1..=253).contains(&endpoint.host().len()), "{text}");
    assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text}");
    assert!(!text.bytes().any(|byte| b"/\\\"'@,;= ".contains(&byte)), "{text}");
}

fn is_path(path: &ZnodePath) {
    let text = path.as_str();
    assert_eq!(text.parse().as_ref(), Ok(path));
    assert!(zookeeper_takes(text), "{text:?}");
    assert!(text.ends_with(&format!("/{}", path.name())));
    let mut below = vec![text];
    below.splice(0..0, path.ancestors());
    for (shorter, longer) in below.iter().zip(&below[1..]) {
        assert!(zookeeper_takes(shorter) && longer.starts_with(&format!("{shorter}/")), "{text:?}");
    }
    let root: ZnodePath = "/albireo".parse().expect("a path");
    assert_eq!(root.below(path).as_str(), format!("/albireo{text}"));
    // A child is a child: its parent is the path.
    if let Ok(child) = root.child(path.as_str()) {
        panic!("{child} as a child of {root}");
    }
    let child = root.child(path.name()).expect("a part of a path is the name of a child");
    assert_eq!((child.name(), child.ancestors().count()), (path.name(), 1));
}

/// The rules of ZooKeeper's servers (`PathUtils.validatePath`), which count in UTF-16.
fn zookeeper_takes(path: &str) -> bool {
    let bad = |unit: u16| matches!(unit, 0..=0x1f | 0x7f..=0x9f | 0xd800..=0xf8ff | 0xfff0..=0xffff);
    let parts =
        path.strip_prefix('/').map(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")));
    parts == Some(true) && !path.encode_utf16().any(bad)
}
