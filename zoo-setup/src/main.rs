//! `zoo-setup` seeds the announcement of a Redis group in ZooKeeper: which server is primary, which are secondary.
//!
//! It creates the announcement's znode, missing parents and the state root, never the `state` record: who may write
//! that is decided by the monitors. What is there already stays unless it is the same or `--force` is given.
//!
//! Exit codes: 0 done or nothing to do, 1 failed, 2 usage or configuration, 3 refused because other content is there.

mod arguments;
mod seed;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use topology::zookeeper::{Options, Store};

use arguments::{Arguments, Plan};
use seed::{SeedError, Seeded};

/// The longest that the whole run may take.
const LIMIT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let plan = match Arguments::parse().plan() {
        Ok(plan) => plan,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.to_string()),
    };
    runtime.block_on(run(&plan))
}

async fn run(plan: &Plan) -> ExitCode {
    let store = Store::open(Options {
        call_timeout: LIMIT,
        auth: plan.auth.clone(),
        tls: plan.tls.clone(),
        private: Some(plan.state_root.clone()),
        ..Options::new(plan.hosts.clone())
    });
    let outcome = tokio::time::timeout(LIMIT, seed::seed(&store, plan)).await;
    let code = match outcome {
        Ok(Ok(seeded)) => report(plan, &seeded),
        Ok(Err(error @ SeedError::OtherContent { .. })) => {
            eprintln!("zoo-setup: {error}");
            ExitCode::from(3)
        }
        Ok(Err(error)) => failed(&error.to_string()),
        Err(_) => {
            let why = store.why_unreachable().map_or(String::new(), |why| format!(": {why}"));
            let (hosts, seconds) = (&plan.hosts, LIMIT.as_secs());
            failed(&format!("no ZooKeeper server answered at {hosts} within {seconds} s{why}"))
        }
    };
    // The session ends with the process in any case; a server that is away is not waited for.
    let _ = tokio::time::timeout(Duration::from_millis(500), store.close()).await;
    code
}

fn report(plan: &Plan, seeded: &Seeded) -> ExitCode {
    let (path, content) = (&plan.path, plan.topology.to_json());
    match seeded {
        Seeded::Created => println!("{path} created: {content}"),
        Seeded::Same => println!("{path} holds this already, nothing to do: {content}"),
        Seeded::Replaced { old } => {
            println!("{path} held: {old}");
            println!("{path} replaced: {content}");
        }
    }
    ExitCode::SUCCESS
}

fn failed(why: &str) -> ExitCode {
    eprintln!("zoo-setup: {why}");
    ExitCode::from(1)
}
