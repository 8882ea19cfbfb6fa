"""The soak's microVMs: what each kind of guest is, and everything a user does with one, verified at each answer."""

from __future__ import annotations

import ast
import json
import math
import os
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import guests
from bench.kinds import PORT, Kind
from bench.patience import Api, Endpoint, NotNow, Tally
from bench.service import IDLE
from bench.walk import Answer, Ledger, Lost, answer_of
from rekindle.cli import archive
from rekindle.driver import start

STORY = 60  #: lines kept of each microVM
#: A snippet is stopped after 30 s, in the middle of a step if need be: the walker asks for more.
UNLIMITED = "import signal; signal.setitimer(signal.ITIMER_REAL, 0)\n"
BEGIN = "if 'walker' not in globals():\n    walker = Walker({seed!r})\njson.dumps(walker.state())"


class Herd:
    """What all of them share."""

    def __init__(self, api: Api, tally: Tally) -> None:
        self.api = api
        self.tally = tally
        self.images: dict[str, str] = {}  #: ARN by kind
        self.ids: set[str] = set()  #: of every microVM and build there was
        self.full_until_s = -math.inf  #: monotonic: when the disk was last full

    def bake(self, kind: Kind, scratch: Path) -> None:
        cloud = self.api.cloud
        s3, api = cloud.client("s3"), cloud.client()
        with tempfile.TemporaryFile() as zipped:
            archive.write(kind.folder(scratch), zipped)
            s3.create_bucket(Bucket=kind.name)
            s3.put_object(Bucket=kind.name, Key="code.zip", Body=zipped.read())
        arn = api.create_microvm_image(
            name=kind.name,
            baseImageArn=api.list_managed_microvm_images()["items"][0]["imageArn"],
            buildRoleArn="arn:aws:iam::000000000000:role/build",
            codeArtifact={"uri": f"s3://{kind.name}/code.zip"},
            resources=[{"minimumMemoryInMiB": kind.memory_mib}],
            hooks=kind.hooks,
        )["imageArn"]
        build = cloud.settled(arn, 900)
        if build["buildState"] != "SUCCESSFUL":
            raise RuntimeError(f"{kind.name}: {build['stateReason']}\n{cloud.build_log(arn)}")
        self.images[kind.name] = arn
        self.ids.add(build["buildId"])

    def run(self, kind: Kind) -> Animal:
        """A new microVM; it must be begun."""
        payload = {"runHookPayload": "{}"} if kind.snippets else {}
        members = {"imageIdentifier": self.images[kind.name], "idlePolicy": IDLE, "clientToken": str(uuid.uuid4())}
        began_s = time.monotonic()
        row = self.api.call("run_microvm", **members, **payload)
        self.ids.add(row["microvmId"])
        return Animal(self, kind, row["microvmId"], row["endpoint"], began_s)


@dataclass
class Animal:
    """One microVM. Whoever does something with it holds its lock; strikes alone need none."""

    herd: Herd
    kind: Kind
    id: str
    where: str
    began_s: float
    awake: bool = True  #: as far as we know
    over: bool = False
    answered: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    story: deque[str] = field(default_factory=lambda: deque(maxlen=STORY))

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.id)
        self._api, self._tally = self.herd.api, self.herd.tally
        self._endpoint = Endpoint(self._api, self.id, self.where, PORT)

    # -- what a user does ----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Its first answer, verified."""
        body = guests.WALKER + UNLIMITED + BEGIN.format(seed=self.id) if self.kind.snippets else None
        self._asked("begin", f"/begin?seed={self.id}", body, starting=True)
        self._tally.took("launch to first verified answer", time.monotonic() - self.began_s)
        self._tally.count("launch")

    def step(self) -> None:
        """One step over the endpoint; wakes the VM when it sleeps."""
        name = "step" if self.awake else "step that wakes"
        to = self.ledger.stepping()
        self._timed(name, lambda: self._ask_step(to))
        self.awake = True

    def walk(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def verify(self) -> None:
        name = "verify" if self.awake else "verify that wakes"
        self._timed(name, lambda: self._asked("state", "/state", UNLIMITED + "json.dumps(walker.state())"))
        self.awake = True

    def suspend(self) -> None:
        self._timed("suspend", self._suspend)

    def suspend_under_way(self) -> None:
        """A step and a suspend at once, in whatever order they come."""
        low, failures = self.ledger.acked, list[Exception]()
        to = self.ledger.stepping()
        self.ledger.may_have_slept(low)

        def ask() -> None:
            try:
                self._ask_step(to)
            except Exception as err:  # noqa: BLE001 - raised again below
                failures.append(err)

        asking = threading.Thread(target=ask)
        asking.start()
        self._api.call("suspend_microvm", microvmIdentifier=self.id)
        asking.join()
        if failures:
            raise failures[0]
        self._tally.count("suspend while a step is under way")
        self.awake = self._settled() == "RUNNING"
        if not self.awake:
            self.ledger.slept()

    def resume(self) -> None:
        self._timed("resume by API", lambda: self._reach("resume_microvm", "RUNNING"))
        self.awake = True

    def terminate(self) -> None:
        self._timed("terminate", lambda: self._reach("terminate_microvm", "TERMINATED"))
        self.over = True
        if self.home.exists():
            raise Lost(f"it is TERMINATED and its folder is there: {sorted(one.name for one in self.home.iterdir())}")

    def _suspend(self) -> None:
        self._reach("suspend_microvm", "SUSPENDED")
        self.ledger.slept()
        self.awake = False

    def _timed(self, name: str, do: Callable[[], None]) -> None:
        before_s = time.monotonic()
        self._note(name)
        do()
        self._tally.took(name, time.monotonic() - before_s)
        self._tally.count(name)

    # -- how -----------------------------------------------------------------------------------------------------------

    def _ask_step(self, to: int) -> None:
        self._asked(f"step {to}", f"/step?to={to}", UNLIMITED + f"json.dumps(walker.step({to}))")

    def _asked(self, what: str, path: str, snippet: str | None, *, starting: bool = False) -> None:
        """Ask until there is an answer, and judge it. Raises Lost; for one that is starting at once."""
        method = "GET" if path == "/state" else "POST"

        def once() -> None:
            asked_at_s = time.monotonic()
            try:
                answer = self._ask(method, path, snippet)
            except NotNow:
                row = self.inspected() if starting else {}
                if row.get("phase") == "TERMINATED":
                    raise Lost(f"it did not start: {row['state_reason']}") from None
                raise
            self._judge(what, answer, asked_at_s)

        self._api.persist(f"{self.id}: {what}", once)

    def _ask(self, method: str, path: str, snippet: str | None) -> Answer:
        if not self.kind.snippets:
            return answer_of(self._endpoint.json(method, path))
        said = self._endpoint.json("POST", "/run", snippet)
        if said["error"] is not None:
            raise Lost(f"the guest's session is another: {said['error']}")
        return answer_of(json.loads(ast.literal_eval(said["result"])))

    def _judge(self, what: str, answer: Answer, asked_at_s: float) -> None:
        struck = self.ledger.struck
        fell = self.ledger.answered(answer, asked_at_s)
        self.answered = True
        self._note(f"{what}: at {answer.counter}" + (", fell back" if fell else ""))
        self._tally.count("answers verified")
        self._tally.count("bytes verified", sum(self.ledger.walk.bytes_of(answer.counter)))
        if struck and not self.ledger.struck:
            self._tally.count("VMM killed: found at its last sleep")
        if fell:
            self._tally.count("VMM killed: steps after that sleep are gone")

    def _reach(self, operation: str, state: str) -> None:
        """Ask again whenever the VM has come to rest elsewhere: a strike may have undone what was asked."""

        def once() -> None:
            self._api.call(operation, microvmIdentifier=self.id)
            found = self._settled()
            if found == "TERMINATED" != state:
                raise Lost(f"it was TERMINATED while {operation} was asked")
            if found != state:
                raise NotNow(f"{operation} left it {found}")

        self._api.persist(f"{self.id} {state}", once)

    def _settled(self) -> str:
        """RUNNING, SUSPENDED or TERMINATED, once no work is under way. Raises Stuck."""
        return str(self._api.operator(f"/v1/microvms/{self.id}/settled")["phase"])

    # -- for others ----------------------------------------------------------------------------------------------------

    @property
    def home(self) -> Path:
        return self._api.cloud.state / "vms" / self.id

    def inspected(self) -> dict[str, Any]:
        """Everything the service knows of it, its story included."""
        return self._api.operator(f"/v1/microvms/{self.id}")

    def vmm(self) -> int | None:
        """A pidfd of its VMM, None when there is none. The caller closes it."""
        who = start.recorded(self.home)
        return None if who is None else who.open()

    def note(self, text: str) -> None:
        self._note(text)

    def _note(self, text: str) -> None:
        self.story.append(f"{time.monotonic():.3f} {text}")

    def disk_bytes(self) -> int:
        return allocated_bytes(self.home)


def allocated_bytes(folder: Path) -> int:
    """As `du` counts: files of several names once, those that vanish meanwhile not at all."""
    seen: dict[tuple[int, int], int] = {}
    for where, names, files in os.walk(folder):
        for name in (*names, *files):
            try:
                stat = os.lstat(os.path.join(where, name))
            except FileNotFoundError:
                continue
            seen[stat.st_dev, stat.st_ino] = stat.st_blocks * 512
    return sum(seen.values())
