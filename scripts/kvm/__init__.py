"""`make test-kvm`: the product's tests on real KVM, inside a machine that software emulation makes (docs/kvm.md)."""

from __future__ import annotations


def say(line: str) -> None:
    """One line for whoever watches, at once."""
    print(line, flush=True)  # noqa: T201 - this is what these commands are for
