"""redis-py as a client of the monitors: see ../tests/clients.rs for the arguments and for what is printed."""
import sys
import time

from redis.exceptions import RedisError
from redis.sentinel import MasterNotFoundError, Sentinel

key, password, dead, *live = sys.argv[1:]


def say(*words):
    print(*words, flush=True)


def client(ports, password=password, others=0):
    ends = [("127.0.0.1", int(port)) for port in ports]
    kwargs = {"password": password, "socket_timeout": 5}
    return Sentinel(ends, sentinel_kwargs=kwargs, min_other_sentinels=others, socket_timeout=5)


def refused(what, sentinel, name, error):
    try:
        say(what, "found", sentinel.discover_master(name))
    except error:
        say(what, "refused")


refused("unknown name", client(live), "unknown", MasterNotFoundError)
refused("wrong password", client(live, password="wrong"), "posts", RedisError)
other = client([dead, live[1]])
say("one endpoint down", other.master_for("posts").config_get("port")["port"])

sentinel = client(live, others=1)
primary, replica = sentinel.master_for("posts"), sentinel.slave_for("posts")
say("primary", primary.config_get("port")["port"])
say("role of the replica", replica.execute_command("ROLE")[0].decode())
# As many endpoints as it demands are there only while both monitors live.
sentinel.min_other_sentinels = 0
n = 0
while True:
    n += 1
    try:
        primary.set(key, n)
        say("wrote", n)
    except RedisError as error:
        say("not written", n, type(error).__name__, error)
    if n % 10 == 0:
        try:
            say("read", int(replica.get(key) or 0))
        except RedisError as error:
            say("not read", type(error).__name__, error)
    time.sleep(0.005)
