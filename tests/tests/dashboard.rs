//! The dashboard in a real Chromium: it loads without an error, shows a failover while it happens, refuses and does what is
//! asked for, says plainly when it is stale, and fits a phone. With `ALBIREO_SCREENSHOTS=FOLDER` the pictures of the
//! documentation are made on the way.

use std::path::PathBuf;
use std::time::Duration;

use world::browser::Browser;
use world::group::Group;
use world::{browser, programs, skip, wait};

const LIMIT: Duration = Duration::from_secs(20);
const TOKEN: &str = "s3cret-token";

fn page(group: &Group, monitor: usize) -> String {
    format!("http://{}/", group.monitors[monitor].http())
}

/// Waits until the element shows this text.
#[track_caller]
fn wait_for(browser: &Browser, id: &str, text: &str) {
    wait::until(&format!("#{id} with `{text}`"), LIMIT, || {
        let shown = browser.text(id);
        wait::holds(shown.contains(text), || format!("it shows `{shown}`"))
    });
}

#[track_caller]
fn wait_for_feed(browser: &Browser, feed: &str) {
    wait::until(&format!("the page is {feed}"), LIMIT, || {
        let is = browser.run("return document.body.dataset.feed");
        wait::holds(is == feed, || is.to_string())
    });
}

/// What the console said is wrong. A disk that is slow to sync may keep ZooKeeper from answering for seconds, and a history
/// from being read: the page says so and tries again.
#[track_caller]
fn errors(browser: &Browser) -> Vec<String> {
    let unread = |line: &String| line.contains("/history") && line.contains("503");
    browser.console("SEVERE").into_iter().filter(|line| !unread(line)).collect()
}

/// Nothing is wider than the window.
#[track_caller]
fn fits(browser: &Browser) {
    let widths = browser.run("return [document.documentElement.scrollWidth, window.innerWidth]");
    assert!(widths[0].as_u64() <= widths[1].as_u64(), "it scrolls sideways: {widths}");
}

/// A switchover that may be refused because this machine has other work for longer than writers are held.
#[track_caller]
fn switchover(group: &Group) {
    let file = group.monitors[0].file().display().to_string();
    wait::until("a switchover", LIMIT, || {
        let (code, said) = programs::run("monitor", &["switchover", &file, "posts"], LIMIT);
        wait::holds(code == 0, || said)
    });
}

fn is_missing(test: &str) -> bool {
    let missing = !browser::is_installed();
    if missing {
        skip::skip(test, "chromium and chromedriver are not installed");
    }
    missing
}

#[test]
fn it_shows_a_failover_while_it_happens() {
    if is_missing("it_shows_a_failover_while_it_happens") {
        return;
    }
    let mut group = Group::of(2).apis(0).start();
    let before = group.settled();
    let (active, old) = (group.wait_for_active(), group.primary());
    let browser = Browser::start(1200, 1000);
    browser.open(&page(&group, active));
    wait_for(&browser, "verdict", &format!("{} is primary of posts", before.primary.addr));
    wait_for(&browser, "risk", "takes over, 0 bytes behind");
    wait_for(&browser, "peers", "sees the same");
    wait_for_feed(&browser, "live");
    assert_eq!(errors(&browser), Vec::<String>::new());
    // The page itself says when it showed the new primary.
    browser.run(
        "const was = document.getElementById('verdict').textContent; window.shownAt = null;
         new MutationObserver((changes, observer) => {
           const is = document.getElementById('verdict').textContent;
           if (is !== was && is.includes(' is primary of ')) { window.shownAt = Date.now(); observer.disconnect(); }
         }).observe(document.getElementById('verdict'), { childList: true, subtree: true, characterData: true });",
    );
    group.redis[old].kill();
    let shown = wait::until("the new primary is shown", LIMIT, || {
        browser.run("return window.shownAt").as_u64().ok_or("not yet")
    });
    let after = group.settled();
    let record = wait::until("the record", LIMIT, || group.history().first().cloned().ok_or("none yet"));
    let announced = record["when_ms"].as_u64().expect("a time");
    let took = shown.saturating_sub(announced);
    println!("shown {took} ms after the announcement");
    assert!(took <= 1000, "shown {took} ms after it was announced");
    wait_for(&browser, "verdict", &format!("{} is primary of posts", after.primary.addr));
    wait_for(&browser, "flow-head", "primary gone");
    for phase in ["detected", "decided", "published", "promoted", "announced"] {
        wait_for(&browser, "flow-detail", phase);
    }
    wait_for(&browser, "flow-detail", "refuses connections");
    wait_for(&browser, "past", "failover");
    let bars = browser.run("return document.querySelectorAll('#chart .bar').length");
    assert_eq!(bars, 1, "one failover in the chart");
    let bars = browser.run("return document.querySelectorAll('#flow rect').length");
    assert_eq!(bars, 5, "a bar for each phase");
    // The other monitor's page shows the same, and where to go for changes.
    browser.open(&page(&group, 1 - active));
    wait_for(&browser, "verdict", &format!("{} is primary of posts", after.primary.addr));
    wait_for(&browser, "actions", "This monitor does not lead");
    wait_for(&browser, "past", "failover");
    assert_eq!(errors(&browser), Vec::<String>::new());
}

#[test]
fn what_is_asked_for_is_refused_without_the_token_and_done_with_it() {
    if is_missing("what_is_asked_for_is_refused_without_the_token_and_done_with_it") {
        return;
    }
    let mut group = Group::of(2).apis(0).monitor_key("admin", "token", TOKEN).start();
    let before = group.settled();
    let active = group.wait_for_active();
    let browser = Browser::start(1200, 1000);
    browser.open(&page(&group, active));
    wait_for(&browser, "verdict", &before.primary.addr.to_string());
    browser.click("#do-switchover");
    browser.click("#confirm");
    wait_for(&browser, "dialog-error", "Refused: a token is needed");
    browser.type_into("#token", "another one");
    browser.click("#confirm");
    wait_for(&browser, "dialog-error", "not the right one");
    assert_eq!(group.state(), before, "what is refused changes nothing");
    browser.type_into("#token", TOKEN);
    browser.click("#confirm");
    wait::until("a switchover", LIMIT, || {
        let said = browser.text("outcome");
        if said.contains("nothing was changed") {
            // This machine had other work for longer than writers are held. The token is known by now.
            browser.click("#do-switchover");
            browser.click("#confirm");
        }
        wait::holds(said.contains(&format!("is primary instead of {}", before.primary.addr)), || said)
    });
    let after = group.settled();
    assert_ne!(after.primary.addr, before.primary.addr);
    wait_for(&browser, "verdict", &format!("{} is primary of posts", after.primary.addr));
    wait_for(&browser, "past", "switchover");
    let kept = browser.run("return [sessionStorage.getItem('albireo-token'), localStorage.length, document.cookie, location.href]");
    assert_eq!(kept[0], TOKEN);
    assert_eq!((&kept[1], &kept[2]), (&0.into(), &"".into()));
    assert!(!kept[3].to_string().contains(TOKEN), "{kept}");

    // The token is asked for once.
    browser.click("#do-pause");
    browser.click("#confirm");
    wait_for(&browser, "outcome", "Done: posts is paused");
    wait_for(&browser, "paused", "PAUSED since");
    wait_for(&browser, "risk", "NOBODY can take over, because it is paused");
    wait_for(&browser, "past", "paused");
    let (code, said) =
        programs::run("monitor", &["status", &group.monitors[0].file().display().to_string()], LIMIT);
    assert!(code == 0 && said.contains("PAUSED since") && said.contains("NO FAILOVER HAPPENS"), "{said}");
    browser.click("#do-resume");
    browser.click("#confirm");
    wait_for(&browser, "outcome", "Done: posts is not paused any more");
    wait_for(&browser, "risk", "takes over");

    // What is refused for safety says why.
    let dead = group.number_of(&after.in_sync[0].addr);
    group.redis[dead].kill();
    wait_for(&browser, "members", "does not answer");
    browser.click("#do-failover");
    let choose = format!("document.getElementById('target').value = '{}'", after.in_sync[0].addr);
    browser.run(&choose);
    browser.click("#confirm");
    wait_for(&browser, "outcome", "Failover was not done: nobody may be promoted");
    wait_for(&browser, "past", "failover refused");
    assert_eq!(group.state().primary.addr, after.primary.addr);
    let others = |line: &String| !(line.contains("401") || line.contains("409"));
    let other: Vec<String> = errors(&browser).into_iter().filter(others).collect();
    assert_eq!(other, Vec::<String>::new());
}

#[test]
fn it_says_plainly_what_is_wrong() {
    if is_missing("it_says_plainly_what_is_wrong") {
        return;
    }
    let mut group = Group::of(2).apis(0).start();
    let state = group.settled();
    let active = group.wait_for_active();
    let browser = Browser::start(1200, 1000);
    browser.open(&page(&group, active));
    wait_for(&browser, "risk", "takes over");
    group.monitors[active].process().pause();
    wait_for(&browser, "alarms", "STALE: nothing was heard from this monitor");
    wait_for_feed(&browser, "stale");
    group.monitors[active].process().resume();
    wait_for_feed(&browser, "live");
    group.wait_for_active();

    group.zookeeper.pause();
    wait_for(&browser, "alarms", "ZooKeeper does not answer this monitor");
    wait_for(&browser, "risk", "NOBODY can take over, because ZooKeeper does not answer");
    group.zookeeper.resume();
    wait::until("the alarm ends", LIMIT, || {
        let shown = browser.text("alarms");
        wait::holds(!shown.contains("ZooKeeper"), || shown)
    });

    for entry in &state.in_sync {
        let number = group.number_of(&entry.addr);
        group.redis[number].kill();
    }
    wait_for(&browser, "risk", "NOBODY can take over");
    let kind = browser.run("return document.getElementById('risk').className");
    assert_eq!(kind, "danger");
    // An address with anything in it is text and never markup.
    browser.open(&format!("{}#%3Cimg src=x onerror=alert(1)%3E", page(&group, active)));
    wait_for(&browser, "verdict", "is primary of posts");
}

#[test]
fn it_fits_a_phone_and_the_dark() {
    if is_missing("it_fits_a_phone_and_the_dark") {
        return;
    }
    let folder = std::env::var_os("ALBIREO_SCREENSHOTS").map(PathBuf::from);
    let mut group = Group::of(2).apis(0).start();
    group.settled();
    // Something to show.
    for number in 0..if folder.is_some() { 3 } else { 1 } {
        let old = group.primary();
        let before = group.state();
        group.redis[old].kill();
        wait::until("a failover", LIMIT, || {
            wait::holds(group.state().promoted > before.promoted, String::new)
        });
        group.redis[old].restart();
        group.settled();
        if folder.is_some() && number < 2 {
            switchover(&group);
            group.settled();
        }
        // Longer than min_interval_ms.
        std::thread::sleep(Duration::from_millis(1200));
    }
    let active = group.wait_for_active();
    let browser = Browser::start(1040, 640);
    let save = |name: &str| {
        if let Some(folder) = &folder {
            let file = folder.join(name);
            std::fs::write(&file, browser.picture()).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        }
    };
    let background = |scheme: &str, width: u32, height: u32| {
        browser.look_like(width, height, scheme);
        browser.open(&page(&group, active));
        wait_for(&browser, "risk", "takes over, 0 bytes behind");
        wait_for(&browser, "peers", "sees the same");
        wait_for(&browser, "past", "failover");
        wait_for(&browser, "flow-detail", "announced");
        fits(&browser);
        browser.run("return getComputedStyle(document.body).backgroundColor").to_string()
    };
    let light = background("light", 1040, 1260);
    save("dashboard-light.png");
    let dark = background("dark", 1040, 590);
    save("dashboard-dark.png");
    assert_ne!(light, dark);
    for width in [320, 360, 390, 768] {
        background("light", width, 650);
        if width == 390 {
            save("dashboard-phone.png");
        }
    }
    browser.run("document.getElementById('do-switchover').click()");
    fits(&browser);
}
