//! Tables for a person at three in the morning: who leads, who is primary, what is at risk; what is wrong comes first.

use serde_json::Value;

use super::when;

/// The whole status. `why`: the monitor that leads could not be asked.
pub(super) fn status(document: &Value, why: Option<&str>) -> String {
    let mut out = String::new();
    if let Some(why) = why {
        out += &format!("NOT ANSWERED BY A MONITOR THAT LEADS: {why}\n");
        if document["told_by"] == "ZooKeeper" {
            out += "What follows is what ZooKeeper holds; the servers themselves were not asked.\n";
        }
        out += "\n";
    }
    out += &monitors(document);
    let mut services: Vec<&Value> = list(&document["services"]).collect();
    services.sort_by_key(|service| !is_troubled(service));
    for service in services {
        out += "\n";
        out += &one(service);
    }
    out
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// Whether somebody should look at it first.
fn is_troubled(service: &Value) -> bool {
    let unwell = |member: &Value| {
        member["up"] == false || (member["recorded_primary"] == false && member["in_sync"] == false)
    };
    service["phase"] != "serving"
        || !service["paused"].is_null()
        || service["risk"]["takes_over"].is_null()
        || service["age_ms"].as_u64() != Some(0)
        || list(&service["members"]).any(unwell)
}

fn monitors(document: &Value) -> String {
    let mut rows = vec![row(["MONITOR", "STATE", "LEADS", "VERSION", ""])];
    for monitor in list(&document["monitors"]) {
        let leads = match (monitor["active"].as_bool(), monitor["led_last"].as_bool()) {
            (Some(true), _) => "leads",
            (_, Some(true)) => "led last",
            _ => "",
        };
        let store = match monitor["zookeeper"].as_bool() {
            Some(true) => "ZooKeeper answers it",
            Some(false) => "ZOOKEEPER DOES NOT ANSWER IT",
            None => "",
        };
        let still = monitor["stood_still"]["ms"].as_u64().map(|ms| {
            let at = monitor["stood_still"]["when_ms"].as_u64().map(when::utc).unwrap_or_default();
            format!("; IT STOOD STILL for {} until {at}", span(ms))
        });
        rows.push(row([
            text(&monitor["name"]),
            text(&monitor["state"]),
            leads,
            text(&monitor["version"]),
            &format!("{store}{}", still.unwrap_or_default()),
        ]));
    }
    if rows.len() == 1 {
        return "no monitor is there\n".to_owned();
    }
    aligned(&rows)
}

fn one(service: &Value) -> String {
    let mut out = format!(
        "{}  primary {}  epoch {}  {}\n",
        text(&service["service"]),
        service["primary"].as_str().unwrap_or("NOBODY"),
        service["epoch"],
        text(&service["phase"]),
    );
    if let Some(paused) = service["paused"].as_object() {
        let by = paused.get("by").and_then(Value::as_str).map(|by| format!(" by {by}")).unwrap_or_default();
        let since = paused.get("since_ms").map(since).unwrap_or_default();
        out += &format!("  PAUSED{since}{by}: NO FAILOVER HAPPENS until `monitor resume`\n");
    }
    if let Some(text) = service["risk"]["text"].as_str() {
        let word = if service["risk"]["takes_over"].is_null() { "RISK" } else { "risk" };
        out += &format!("  {word}   {text}\n");
    }
    out += &format!("  why    {}\n", text(&service["because"]));
    match service["age_ms"].as_u64() {
        Some(0) => {}
        Some(age) => {
            out +=
                &format!("  STALE  ZooKeeper has not answered for {}; no failover is possible\n", span(age))
        }
        None => {}
    }
    let mut rows = vec![row(["  SERVER", "ROLE", "IN SYNC", "LAG", "HEALTH", "MAY TAKE OVER"])];
    rows.extend(list(&service["members"]).map(member));
    out + &aligned(&rows)
}

fn member(member: &Value) -> Vec<String> {
    let primary = member["recorded_primary"] == true;
    let in_sync = if primary {
        ""
    } else if member["in_sync"] == true {
        "yes"
    } else {
        "NO"
    };
    let lag = member["lag_bytes"].as_u64().map_or(String::new(), |bytes| format!("{bytes} B"));
    let health = match (member["up"].as_bool(), text(&member["health"])) {
        (Some(false), "unknown") => "unknown".to_owned(),
        (Some(false), health) => format!("DOWN: {health}"),
        (_, health @ ("misconf" | "oom")) => format!("NO ROOM: {health}"),
        (_, health) => health.to_owned(),
    };
    let takes = match (primary, member["eligible"].as_bool(), member["why"].as_str()) {
        (true, _, Some(why)) => why.to_owned(),
        (true, _, None) => "is primary".to_owned(),
        (false, Some(true), Some(why)) => format!("yes; {why}"),
        (false, Some(true), None) => "yes".to_owned(),
        (false, _, Some(why)) => format!("no: {why}"),
        (false, Some(false), None) => "no".to_owned(),
        (false, None, None) => "not known".to_owned(),
    };
    let addr = format!("  {}", text(&member["addr"]));
    vec![addr, text(&member["role"]).to_owned(), in_sync.to_owned(), lag, health, takes]
}

fn since(millis: &Value) -> String {
    millis.as_u64().map_or(String::new(), |millis| format!(" since {}", when::utc(millis)))
}

fn span(millis: u64) -> String {
    match millis {
        0..1000 => format!("{millis} ms"),
        1000..120_000 => format!("{} s", millis / 1000),
        _ => format!("{} min", millis / 60_000),
    }
}

/// The decisions of one service.
pub(super) fn history(service: &str, decisions: &[Value]) -> String {
    if decisions.is_empty() {
        return format!("{service}: nothing was decided yet\n");
    }
    let mut rows = vec![row(["WHEN", "EPOCH", "WHAT", "FROM", "TO", "TOOK", "LACKED"])];
    let mut whys = vec![String::new()];
    for decision in decisions {
        let took =
            decision["phases"]["announced_ms"].as_f64().map_or(String::new(), |ms| format!("{ms:.1} ms"));
        let lacked = decision["lost_bytes_seen"].as_u64().map_or(String::new(), |bytes| format!("{bytes} B"));
        let times = decision["times"].as_u64().filter(|times| *times > 1);
        let what = text(&decision["what"]).to_owned();
        let what = times.map_or(what.clone(), |times| format!("{what} ({times} times)"));
        let from = decision["from"].as_str().unwrap_or_default();
        let to = decision["to"].as_str().or(decision["member"].as_str()).unwrap_or_default();
        let moment = decision["when_ms"].as_u64().map_or_else(|| "-".to_owned(), when::utc);
        let epoch = decision["epoch"].to_string();
        rows.push(vec![moment, epoch, what, from.to_owned(), to.to_owned(), took, lacked]);
        whys.push(text(&decision["why"]).to_owned());
    }
    let table = aligned(&rows);
    let lines = table.lines().zip(whys).map(|(line, why)| match why.is_empty() {
        true => format!("{line}\n"),
        false => format!("{line}\n    {why}\n"),
    });
    lines.collect()
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// Columns two spaces apart; nothing trails.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).filter(|(_, width)| **width > 0);
        let line: Vec<String> = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", line.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn member(addr: &str, primary: bool, in_sync: bool) -> Value {
        json!({
            "addr": addr, "role": if primary { "primary" } else { "replica" },
            "lag_bytes": if primary { Value::Null } else { json!(0) }, "up": true, "health": "up",
            "eligible": !primary && in_sync, "why": if primary || in_sync { Value::Null } else { json!("not in sync: 9 bytes behind") },
            "recorded_primary": primary, "in_sync": in_sync,
        })
    }

    fn service(name: &str) -> Value {
        json!({
            "service": name, "primary": "a:1", "epoch": 7, "phase": "serving", "age_ms": 0,
            "because": "all is as recorded",
            "risk": {"takes_over": "b:1", "text": "if a:1 dies now: b:1 takes over, 0 bytes behind"},
            "members": [member("a:1", true, false), member("b:1", false, true)],
        })
    }

    #[test]
    fn a_quiet_night() {
        let document = json!({
            "monitors": [
                {"name": "primary", "state": "ACTIVE", "active": true, "version": "0.1.0", "zookeeper": true},
                {"name": "backup", "state": "PASSIVE", "active": false, "version": "0.1.0"},
            ],
            "services": [service("posts")],
        });
        let expected = "\
MONITOR  STATE    LEADS  VERSION
primary  ACTIVE   leads  0.1.0    ZooKeeper answers it
backup   PASSIVE         0.1.0

posts  primary a:1  epoch 7  serving
  risk   if a:1 dies now: b:1 takes over, 0 bytes behind
  why    all is as recorded
  SERVER  ROLE     IN SYNC  LAG  HEALTH  MAY TAKE OVER
  a:1     primary                up      is primary
  b:1     replica  yes      0 B  up      yes
";
        assert_eq!(status(&document, None), expected);
    }

    #[test]
    fn what_is_wrong_comes_first_and_is_loud() {
        let mut paused = service("users");
        paused["paused"] = json!({"since_ms": 1_795_281_633_000_u64, "by": "10.0.0.1"});
        let mut stale = service("likes");
        stale["age_ms"] = json!(12_345);
        stale["members"][1] = member("b:1", false, false);
        stale["members"][0]["up"] = json!(false);
        stale["members"][0]["health"] = json!("silent");
        stale["risk"] =
            json!({"takes_over": null, "text": "a:1 is lost, and NOBODY can take over, because ..."});
        let stalled = json!({
            "name": "primary", "state": "ACTIVE", "active": true, "version": "0.1.0", "zookeeper": true,
            "stood_still": {"ms": 320, "when_ms": 1_795_281_633_000_u64},
        });
        let document = json!({"monitors": [stalled], "services": [service("posts"), paused, stale]});
        let out = status(&document, Some("no monitor leads"));
        let at = |what: &str| out.find(what).unwrap_or_else(|| panic!("`{what}` is missing: {out}"));
        assert!(at("NOT ANSWERED BY A MONITOR THAT LEADS: no monitor leads") < at("users"));
        assert!(at("users") < at("posts") && at("likes") < at("posts"), "{out}");
        at("ZooKeeper answers it; IT STOOD STILL for 320 ms until 2026-11-21 17:20:33Z");
        at("PAUSED since 2026-11-21 17:20:33Z by 10.0.0.1: NO FAILOVER HAPPENS");
        at("RISK   a:1 is lost, and NOBODY can take over");
        at("STALE  ZooKeeper has not answered for 12 s");
        at("DOWN: silent");
        at("no: not in sync: 9 bytes behind");
    }

    #[test]
    fn decisions_with_their_reasons() {
        let failover = json!({
            "when_ms": 1_795_281_633_000_u64, "epoch": 4, "what": "failover", "why": "primary gone; b:1 takes over",
            "from": "a:1", "to": "b:1", "phases": {"announced_ms": 30.57}, "lost_bytes_seen": 0,
        });
        let refused =
            json!({"when_ms": 0, "epoch": 4, "what": "failover refused", "why": "nobody", "times": 3});
        let expected = "\
WHEN                  EPOCH  WHAT                        FROM  TO   TOOK     LACKED
2026-11-21 17:20:33Z  4      failover                    a:1   b:1  30.6 ms  0 B
    primary gone; b:1 takes over
1970-01-01 00:00:00Z  4      failover refused (3 times)
    nobody
";
        assert_eq!(history("posts", &[failover, refused]), expected);
        assert_eq!(history("posts", &[]), "posts: nothing was decided yet\n");
    }
}
