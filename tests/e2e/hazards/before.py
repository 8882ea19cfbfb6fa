"""What a program has in its memory when its image is frozen. Snippets in clones look at it through `facts`.

Runs in the guest (Python of Debian 13), imported before the example interpreter begins.
"""

import ctypes
import fcntl
import json
import os
import random
import secrets
import socket
import ssl
import subprocess
import sys
import threading
import time
import uuid

from tickets import ticket_keys

WORKER = """
import json, random, secrets, ssl, sys, uuid
from tickets import ticket_keys
mine = random.Random(42)
for line in sys.stdin:
    print(json.dumps({
        "random": random.getrandbits(64), "choice": random.random(), "gauss": random.gauss(), "own": mine.random(),
        "unseeded": free.random() if (free := globals().setdefault("free", random.Random())) else None,
        "openssl": ssl.RAND_bytes(8).hex(), "secrets": secrets.token_hex(8), "uuid": str(uuid.uuid4()),
        "tickets": ticket_keys(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)),
    }), flush=True)
"""
IN_MOVED_TO = 0x80
FOLDER = "/run/rekindle"


def program(argv, **env):
    """A child process that answers each line with a line of JSON."""
    return subprocess.Popen(argv, env=os.environ | env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(child):
    child.stdin.write("\n")
    child.stdin.flush()
    return json.loads(child.stdout.readline())


def clocks():
    return {
        "wall": time.time(),
        "monotonic": time.monotonic(),
        "boottime": time.clock_gettime(time.CLOCK_BOOTTIME),
    }


def follow():
    """An application's way to hear of thaws."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_CLOEXEC)
    if libc.inotify_add_watch(watch, FOLDER.encode(), IN_MOVED_TO) < 0:
        raise OSError(ctypes.get_errno(), "inotify_add_watch")
    while os.read(watch, 4096):
        heard.append(generation()["generation"])


def generation():
    with open(f"{FOLDER}/generation") as file:
        return json.load(file)


def counter():
    with open("/dev/sysgenid", "rb") as file:
        return int.from_bytes(file.read(4), sys.byteorder)


def still_locked():
    with open("/tmp/lock") as again:
        try:
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def timer_says():
    """A timer on the wall clock that asked to hear of jumps (TFD_TIMER_CANCEL_ON_SET)."""
    try:
        return os.read(timer, 8).hex()
    except OSError as err:
        return err.strerror


def listener_answers():
    with socket.create_connection(("127.0.0.1", 7000), 5) as near:
        server, _ = listener.accept()
        server.close()
        return near.recv(1) == b""


def first_line(path):
    with open(path) as file:
        return file.readline().strip()


def facts():
    return {
        "kernel": os.urandom(16).hex(),
        "secrets": secrets.token_hex(16),
        "uuid": str(uuid.uuid4()),
        "old_uuid": old_uuid,
        "plain": ask(plain),
        "preloaded": ask(preloaded),
        "go": ask(go),
        "openssl": ssl.RAND_bytes(16).hex(),
        "tickets": ticket_keys(tls),
        "hostname": socket.gethostname(),
        "hostname_file": first_line("/etc/hostname"),
        "machine_id": first_line("/etc/machine-id"),
        "boot_id": first_line("/proc/sys/kernel/random/boot_id"),
        "addresses": sorted({line.split()[-1] for line in open("/proc/net/fib_trie") if "|--" in line}),
        "generation": generation(),
        "counter": counter(),
        "heard": heard[-1:],
        "clocks": clocks(),
        "clocks_then": clocks_then,
        "total_gap_then_ms": total_gap_then_ms,
        "alarm": alarm.finished.is_set(),
        "timer": timer_says(),
        "locked": still_locked(),
        "owner": first_line("/tmp/owner") if os.path.exists("/tmp/owner") else None,
        "listener": listener_answers(),
    }


heard = []
first_line("/proc/sys/kernel/random/boot_id")  # the kernel's own is made when it is read first, and common from then on
old_uuid = str(uuid.uuid4())
for draw in (random.random, secrets.token_hex, lambda: ssl.RAND_bytes(16), lambda: os.urandom(16)):
    draw()  # all generators are in use
plain = program([sys.executable, "-c", WORKER])
preloaded = program([sys.executable, "-c", WORKER], PYTHONPATH=f"{FOLDER}/python:/opt/interpreter")
go = program(["/opt/interpreter/worker"])
for one in (plain, preloaded, go):
    ask(one)
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
lock = open("/tmp/lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
listener = socket.create_server(("127.0.0.1", 7000))
timer = os.timerfd_create(time.CLOCK_REALTIME, flags=os.TFD_NONBLOCK)
os.timerfd_settime(timer, flags=os.TFD_TIMER_ABSTIME | os.TFD_TIMER_CANCEL_ON_SET, initial=time.time() + 86400)
alarm = threading.Timer(3600, lambda: None)
alarm.daemon = True
alarm.start()
threading.Thread(target=follow, daemon=True).start()
total_gap_then_ms, clocks_then = generation()["total_gap_ms"], clocks()
