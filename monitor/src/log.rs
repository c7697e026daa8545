//! The log: to stderr, as text or JSON, from a level on that can be changed while the program runs.

use std::io::IsTerminal;
use std::sync::OnceLock;

use settings::{LogFormat, LogLevel, LogSettings};
use tracing_subscriber::EnvFilter;

/// Puts another filter in place of the present one.
type Change = Box<dyn Fn(EnvFilter) -> bool + Send + Sync>;

static CHANGE: OnceLock<Change> = OnceLock::new();

/// Begins; once per process.
pub(crate) fn start(settings: LogSettings) {
    let log = tracing_subscriber::fmt().with_env_filter(filter(settings.level)).with_writer(std::io::stderr);
    let change: Change = match settings.format {
        LogFormat::Json => {
            let log = log.json().with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            Box::new(move |filter| handle.reload(filter).is_ok())
        }
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal();
            let log = log.with_target(false).with_ansi(colours).with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            Box::new(move |filter| handle.reload(filter).is_ok())
        }
    };
    _ = CHANGE.set(change);
}

/// From now on lines of this level; false where no log was started.
pub(crate) fn set_level(level: LogLevel) -> bool {
    CHANGE.get().is_some_and(|change| change(filter(level)))
}

/// The libraries tell of every request at DEBUG and of every attempt to connect at WARN; the driver tells what matters of
/// the session and of the pair, each change once.
fn filter(level: LogLevel) -> EnvFilter {
    let quiet = match level {
        LogLevel::Debug | LogLevel::Trace => "zookeeper_client=warn,hickory_proto=warn",
        LogLevel::Error | LogLevel::Warn => "zookeeper_client=error,hickory_proto=error",
        LogLevel::Info => {
            "zookeeper_client=error,topology::zookeeper=warn,binary_star=warn,hickory_proto=error"
        }
    };
    EnvFilter::try_new(format!("{},{quiet}", level.as_str())).unwrap_or_default()
}
