"""redis-py's asyncio client of the monitors: see ../tests/clients.rs for the arguments and for what is printed."""
import asyncio
import sys

from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.exceptions import RedisError

key, password, dead, *live = sys.argv[1:]


def say(*words):
    print(*words, flush=True)


def client(ports, password=password):
    ends = [("127.0.0.1", int(port)) for port in ports]
    return Sentinel(ends, sentinel_kwargs={"password": password, "socket_timeout": 5}, socket_timeout=5)


async def refused(what, sentinel, name, error):
    try:
        say(what, "found", await sentinel.discover_master(name))
    except error:
        say(what, "refused")


async def main():
    await refused("unknown name", client(live), "unknown", MasterNotFoundError)
    await refused("wrong password", client(live, password="wrong"), "posts", RedisError)
    other = client([dead, live[1]])
    say("one endpoint down", (await other.master_for("posts").config_get("port"))["port"])

    sentinel = client(live)
    primary, replica = sentinel.master_for("posts"), sentinel.slave_for("posts")
    say("primary", (await primary.config_get("port"))["port"])
    say("role of the replica", (await replica.execute_command("ROLE"))[0].decode())
    n = 0
    while True:
        n += 1
        try:
            await primary.set(key, n)
            say("wrote", n)
        except RedisError as error:
            say("not written", n, type(error).__name__, error)
        if n % 10 == 0:
            try:
                say("read", int(await replica.get(key) or 0))
            except RedisError as error:
                say("not read", type(error).__name__, error)
        await asyncio.sleep(0.005)


asyncio.run(main())
