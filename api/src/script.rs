//! The scripts that run on a primary, each one step for everybody who looks on.
//!
//! Every write goes through [`WRITE`]: under another epoch than the view's it does nothing (R3), and with the writes
//! it leaves the number of the batch in the connection's marker, which tells later what became of a batch whose
//! answer was lost (R17). [`SETTLE`] asks for that. [`BARRIER`] is only a place in the stream for the replicas to reach.

use wire::{Command, cmd};

use crate::queue::Write;

/// Holds the epoch last stamped on a server.
pub(crate) const FENCE: &str = "albireo:fence";

/// A counter of batches, begun anew where somebody else made it a word, or made it overflow; it tells the newer one of two restarted servers (R14), and serves as the barrier.
const TICK: &str = "albireo:tick";

/// How long a marker outlives its connection's last batch. Far longer than any request may wait.
const MARKER_TTL_MS: &str = "3600000";

/// `KEYS`: fence, marker, tick, then one key per write. `ARGV`: epoch, number of the batch, life of the marker, then
/// value and `ttl_ms` (or nothing) per write. Without writes it proves that the server takes them.
///
/// The marker comes first: if the server refuses that (it is a replica, out of memory, ...), nothing was applied.
/// When some write fails on its own the marker becomes a word instead of a number, for then it cannot say which.
pub(crate) const WRITE: &str = "\
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED not under epoch ' .. ARGV[1]) end
local marked = redis.pcall('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
if marked['err'] then return marked end
local results, failed = {}, false
for i = 4, #KEYS do
  local value, ttl, done = ARGV[2 * i - 4], ARGV[2 * i - 3], nil
  if ttl == '' then done = redis.pcall('SET', KEYS[i], value)
  else done = redis.pcall('SET', KEYS[i], value, 'PX', ttl) end
  if done['err'] then failed = true end
  results[i - 3] = done
end
if #KEYS > 3 then redis.pcall('INCR', KEYS[3]) end
if not failed then return #KEYS - 3 end
redis.pcall('SET', KEYS[2], ARGV[2] .. ' in part', 'PX', ARGV[3])
return results
";

/// `KEYS`: fence, marker, tick. `ARGV`: epoch. The barrier and the marker in one step: a GET before the barrier could
/// come before the promotion of the server, and the batch could still reach it through replication.
const SETTLE: &str = "\
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED not under epoch ' .. ARGV[1]) end
local barrier = redis.pcall('INCR', KEYS[3])
if type(barrier) == 'table' then barrier = redis.pcall('SET', KEYS[3], '1') end
if type(barrier) == 'table' and barrier['err'] then return barrier end
return redis.pcall('GET', KEYS[2])
";

/// The call of [`WRITE`], known to the server as `sha`.
pub(crate) fn write(sha: &str, epoch: u64, marker: &str, number: u64, writes: &[Write]) -> Command {
    let mut call = cmd!["EVALSHA", sha, (3 + writes.len()).to_string(), FENCE, marker, TICK];
    for write in writes {
        call.push(&write.key);
    }
    call.push(epoch.to_string());
    call.push(number.to_string());
    call.push(MARKER_TTL_MS);
    for write in writes {
        call.push(&write.value);
        match write.ttl_ms {
            Some(ttl_ms) => call.push(ttl_ms.to_string()),
            None => call.push(""),
        }
    }
    call
}

/// The same write without a record, and so without an epoch to check.
pub(crate) fn plain_write(write: &Write) -> Command {
    let set = cmd!["SET", &write.key, &write.value];
    match write.ttl_ms {
        Some(ttl_ms) => set.arg("PX").arg(ttl_ms.to_string()),
        None => set,
    }
}

/// A write for its own sake (R3, R8): `KEYS`: fence, tick. `ARGV`: epoch.
const BARRIER: &str = "\
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED not under epoch ' .. ARGV[1]) end
local barrier = redis.pcall('INCR', KEYS[2])
if type(barrier) == 'table' then return redis.pcall('SET', KEYS[2], '1') end
return barrier
";

/// The call of the barrier that leaves every marker alone. It is sent with its text, for it is seldom needed.
pub(crate) fn barrier(epoch: u64) -> Command {
    cmd!["EVAL", BARRIER, "2", FENCE, TICK, epoch.to_string()]
}

/// The call of the settling script. It is sent with its text, for it is needed once per lost connection.
pub(crate) fn settle(epoch: u64, marker: &str) -> Command {
    cmd!["EVAL", SETTLE, "3", FENCE, marker, TICK, epoch.to_string()]
}
