//! probe
use std::time::{Duration, Instant};
use topology::zookeeper::*;
use world::zookeeper::ZooKeeper;
#[tokio::test]
async fn probe() {
    let server = ZooKeeper::start();
    let store = Store::open(Options::new(server.hosts()));
    for p in ["/a", "/b"] { store.create(p, b"", Mode::Persistent).await.unwrap(); }
    for _ in 0..500 { store.set("/a", b"x", -1).await.unwrap(); }
    for kind in ["alone", "after a set in flight 0us", "after a set in flight 200us", "two at once"] {
        let mut t = vec![];
        for _ in 0..200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let s = store.clone();
            let other = if kind != "alone" { let n = if kind == "two at once" {2} else {1};
                Some((0..n).map(|_| { let s = s.clone(); tokio::spawn(async move { s.set("/a", b"y", -1).await.unwrap(); })}).collect::<Vec<_>>()) } else { None };
            if kind.contains("0us") { tokio::task::yield_now().await; }
            if kind.contains("200us") { tokio::time::sleep(Duration::from_micros(200)).await; }
            let b = Instant::now();
            store.multi(vec![Op::check("/a", -1), Op::set("/b", *b"z", -1)]).await.unwrap();
            t.push(b.elapsed());
            if let Some(o) = other { for o in o { o.await.unwrap(); } }
        }
        t.sort();
        println!("over20ms {} {kind}: p50 {:?} p90 {:?} max {:?}", t.iter().filter(|d| d.as_millis()>20).count(), t[100], t[180], t[199]);
    }
}
