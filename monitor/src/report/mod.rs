//! `monitor status` and `monitor history`: what is, and what was decided, for a person or a program.
//!
//! The status comes from the monitor that leads. Where none does, or it does not answer, what ZooKeeper holds is told
//! instead, with the reason; where ZooKeeper does not answer either, what the monitor of this very file knows.

mod held;
mod table;
mod when;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio::time::timeout;
use topology::zookeeper::Store;
use topology::{Endpoint, Layout, ZnodePath};

use crate::call::{Call, call};
use crate::config::Config;
use crate::verbs::{REACH, find};

/// How long the status of a monitor is waited for.
const ANSWER: Duration = Duration::from_secs(5);

/// Shows the status. Exit codes: 0 told by the monitor that leads, 1 by nobody who can act.
pub(crate) async fn status(config: Config, as_json: bool) -> ExitCode {
    let (document, why) = match document(&config).await {
        Ok(document) => (document, None),
        Err((document, why)) => (document, Some(why)),
    };
    if as_json {
        print(&format!("{}\n", with_error(document, why.as_deref())));
    } else {
        print(&table::status(&document, why.as_deref()));
    }
    ExitCode::from(u8::from(why.is_some()))
}

/// To stdout. Whoever reads it may have seen enough (`| head`), which is no failure of ours.
pub(crate) fn print(text: &str) {
    _ = std::io::stdout().write_all(text.as_bytes());
}

fn with_error(mut document: Value, why: Option<&str>) -> Value {
    if let (Some(fields), Some(why)) = (document.as_object_mut(), why) {
        fields.insert("error".to_owned(), json!(why));
    }
    document
}

/// What the monitor that leads says; else what can be known otherwise, and why it could not be asked.
async fn document(config: &Config) -> Result<Value, (Value, String)> {
    let store = Store::open(config.store_options());
    let layout = Layout::new(config.zookeeper.state_root.clone());
    let told = told(config, &store, &layout).await;
    store.close().await;
    let why = match told {
        Ok(told) => return told,
        Err(why) => format!("ZooKeeper at {} does not answer{why}", config.zookeeper.hosts),
    };
    let own = &config.admin.announce;
    Err(match services(own).await {
        Ok(document) => (document, format!("{why}; this is what the monitor at {own} knows")),
        Err(own) => (json!({"monitors": [], "services": []}), format!("{why}; {own}")),
    })
}

/// The same as far as ZooKeeper answers; else its words.
async fn told(
    config: &Config,
    store: &Store,
    layout: &Layout,
) -> Result<Result<Value, (Value, String)>, String> {
    let leader = within_reach(find(store, layout)).await?;
    let asked = match leader.admin() {
        Ok(admin) => services(&admin).await.map(|document| (admin, document)),
        Err(why) => Err(why),
    };
    match asked {
        // Itself is the first that it names.
        Ok((_, document)) if document["monitors"][0]["active"] == true => Ok(Ok(document)),
        Ok((admin, document)) => {
            let why = format!("the monitor at {admin} led last, and does not lead any more");
            Ok(Err((document, why)))
        }
        Err(why) => {
            let held = within_reach(held::document(config, store, layout, &leader)).await?;
            Ok(Err((held, why)))
        }
    }
}

async fn within_reach<T>(read: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let read = timeout(REACH, read).await;
    read.unwrap_or_else(|_| Err(String::new())).map_err(|why| match why.as_str() {
        "" => why,
        _ => format!(" ({why})"),
    })
}

async fn services(admin: &Endpoint) -> Result<Value, String> {
    let ask = Call { page: "/services", body: None, token: None, limit: ANSWER };
    match call(admin, ask).await? {
        (StatusCode::OK, document) if document["services"].is_array() => Ok(document),
        (status, _) => Err(format!("the monitor at {admin} answered {status}")),
    }
}

/// Shows what was decided for one service, newest first, as it stands in ZooKeeper.
pub(crate) async fn history(config: Config, service: String, as_json: bool) -> ExitCode {
    let store = Store::open(config.store_options());
    let layout = Layout::new(config.zookeeper.state_root.clone());
    let hosts = &config.zookeeper.hosts;
    let read = timeout(REACH, async {
        let path = path_of(&config, &store, &service).await?;
        let path = path.ok_or_else(|| format!("no service is called `{service}` here"))?;
        decisions(&store, &layout, &path).await
    });
    let read = read.await.unwrap_or_else(|_| Err(format!("ZooKeeper at {hosts} does not answer")));
    store.close().await;
    match read {
        Ok(decisions) => {
            match as_json {
                true => print(&format!("{}\n", json!(decisions))),
                false => print(&table::history(&service, &decisions)),
            }
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("monitor history: {why}");
            ExitCode::from(1)
        }
    }
}

/// The records of a service's history, newest first.
pub(crate) async fn decisions(
    store: &Store,
    layout: &Layout,
    path: &ZnodePath,
) -> Result<Vec<Value>, String> {
    let at = layout.history(path);
    match store.get(&at).await.map_err(|e| e.to_string())? {
        None => Ok(Vec::new()),
        Some(found) => serde_json::from_slice(&found.data).map_err(|e| format!("{at} holds no history: {e}")),
    }
}

/// The path of the service of this name: configured, or found below `discover`.
pub(crate) async fn path_of(config: &Config, store: &Store, name: &str) -> Result<Option<ZnodePath>, String> {
    Ok(paths(config, store).await?.into_iter().find(|path| path.name() == name))
}

/// Every service of this configuration. Of two with the same name the first one counts.
async fn paths(config: &Config, store: &Store) -> Result<Vec<ZnodePath>, String> {
    let mut all = config.zookeeper.path.clone();
    if let Some(parent) = &config.zookeeper.discover {
        let mut children =
            store.children(parent.as_str()).await.map_err(|e| e.to_string())?.unwrap_or_default();
        children.sort();
        for child in children.iter().filter_map(|name| parent.child(name).ok()) {
            if all.iter().all(|known| known.name() != child.name()) {
                all.push(child);
            }
        }
    }
    Ok(all)
}
