"""A Binary Star server and client on pyzmq, written from the description of the pattern for the tests here.

    peer.py server primary|backup BIND PEER VOTER HEARTBEAT_MS     prints "state NAME" at every change
    peer.py client SERVER SERVER                                   prints one line per reply, as bstarcli does
"""

import sys
import time

import zmq

NAMES = {1: "PRIMARY", 2: "BACKUP", 3: "ACTIVE", 4: "PASSIVE"}
PRIMARY, BACKUP, ACTIVE, PASSIVE = NAMES

# What hearing the peer in a state does to ours; what is not listed changes nothing.
ON_HEARING = {
    (PRIMARY, BACKUP): ACTIVE,
    (PRIMARY, ACTIVE): PASSIVE,
    (BACKUP, ACTIVE): PASSIVE,
    (PASSIVE, PRIMARY): ACTIVE,
    (PASSIVE, BACKUP): ACTIVE,
}
FATAL = {(ACTIVE, ACTIVE), (PASSIVE, PASSIVE)}


def socket(context, kind, bind=None, connect=None):
    made = context.socket(kind)
    made.setsockopt(zmq.LINGER, 0)
    if kind == zmq.SUB:
        made.setsockopt(zmq.SUBSCRIBE, b"")
    if bind:
        made.bind(bind)
    if connect:
        made.connect(connect)
    return made


class Server:
    def __init__(self, role, bind, peer, voter, heartbeat_ms):
        context = zmq.Context()
        self.mouth = socket(context, zmq.PUB, bind=bind)
        self.ear = socket(context, zmq.SUB, connect=peer)
        self.voter = socket(context, zmq.ROUTER, bind=voter)
        self.heartbeat = int(heartbeat_ms) / 1000
        self.state = {"primary": PRIMARY, "backup": BACKUP}[role]
        self.heard()
        print("state", NAMES[self.state], flush=True)

    def heard(self):
        self.expiry = time.monotonic() + 2 * self.heartbeat

    def enter(self, state):
        if state != self.state:
            self.state = state
            print("state", NAMES[state], flush=True)

    def on_peer(self, said):
        self.heard()
        if (self.state, said) in FATAL:
            sys.exit("both sides are " + NAMES[said])
        self.enter(ON_HEARING.get((self.state, said), self.state))

    def on_client(self, message):
        if self.state in (PRIMARY, PASSIVE) and time.monotonic() >= self.expiry:
            self.enter(ACTIVE)
        if self.state == ACTIVE:
            self.voter.send_multipart(message)

    def run(self):
        poller = zmq.Poller()
        poller.register(self.ear, zmq.POLLIN)
        poller.register(self.voter, zmq.POLLIN)
        due = time.monotonic() + self.heartbeat
        while True:
            ready = dict(poller.poll(max(0, due - time.monotonic()) * 1000))
            if self.ear in ready:
                self.on_peer(int(self.ear.recv()))
            if self.voter in ready:
                self.on_client(self.voter.recv_multipart())
            if time.monotonic() >= due:
                self.mouth.send_string(str(self.state))
                due = time.monotonic() + self.heartbeat


def client(*servers):
    context = zmq.Context()
    turn, number = 0, 1
    while True:
        asked = socket(context, zmq.REQ, connect=servers[turn % len(servers)])
        while True:
            asked.send_string(str(number))
            if not asked.poll(1000):
                break
            if asked.recv_string() == str(number):
                print("I: server replied OK (%d)" % number, flush=True)
                number += 1
                time.sleep(0.2)
        print("W: no response from server, failing over", flush=True)
        asked.close()
        turn += 1
        time.sleep(1)


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    if what == "server":
        Server(*arguments).run()
    else:
        client(*arguments)
