"""Where things of one service lie in its state folder (docs/contracts.md §1). Paths only; nothing is made here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    state: Path

    @property
    def run(self) -> Path:
        return self.state / "run"

    @property
    def relay_socket(self) -> Path:
        return self.run / "relay.sock"

    @property
    def operator_socket(self) -> Path:
        return self.run / "operator.sock"

    @property
    def relay_log(self) -> Path:
        return self.state / "logs/relay.log"

    @property
    def images(self) -> Path:
        return self.state / "images"

    @property
    def vms(self) -> Path:
        return self.state / "vms"

    @property
    def builds(self) -> Path:
        return self.state / "builds"

    def image(self, folder: str) -> Path:
        """The folder of a whole image version; `folder` is what its row says."""
        return self.images / folder

    def home(self, vm_id: str) -> Path:
        return self.vms / vm_id

    def sleep(self, vm_id: str, revision: int) -> Path:
        """The snapshot folder of one sleep: a new one for every revision, never written twice."""
        return self.home(vm_id) / "snapshots" / str(revision)

    def build_log(self, build_id: str) -> Path:
        return self.state / "logs/builds" / f"{build_id}.log"

    def app_log(self, vm_id: str) -> Path:
        """What the app of a VM that is over wrote last; kept as long as its row."""
        return self.state / "logs/microvms" / f"{vm_id}.log"

    def account(self, account: str) -> Path:
        return self.state / "accounts" / account

    def make(self) -> None:
        """The folders that must exist before anything starts; only the owner may look in."""
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.state.chmod(0o700)
        for folder in (
            self.run,
            self.images,
            self.vms,
            self.builds,
            self.state / "logs/builds",
            self.state / "logs/microvms",
        ):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
