"""Keeps Python's random numbers apart in clones: an image opts in with `ENV PYTHONPATH=/run/rekindle/python`.

`random`: its functions, and every random.Random that nobody gave a seed or a state, start from the kernel's generator
again at the first use after a thaw. `ssl`: OpenSSL's generator is reseeded before the first random bytes or the first
new connection after a thaw. How a thaw is noticed costs no call: a counter in shared memory (docs/clones.md).
"""

import mmap
import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

COUNTER = "/run/rekindle/sysgenid"


def _counter():
    """The counter as a live sequence of one number; None outside of Rekindle."""
    try:
        file = os.open(COUNTER, os.O_RDONLY)
    except OSError:
        return None
    try:
        return memoryview(mmap.mmap(file, 4, mmap.MAP_SHARED, mmap.PROT_READ)).cast("I")
    finally:
        os.close(file)


def _change_random(module):
    kind = module.Random
    seed, setstate = kind.seed, kind.setstate
    kind._rekindle_own, kind._rekindle_seen = False, _NOW[0]

    def new_seed(self, a=None, *rest, **named):
        self._rekindle_own, self._rekindle_seen = a is not None, _NOW[0]
        return seed(self, a, *rest, **named)

    def new_setstate(self, state):
        self._rekindle_own = True
        return setstate(self, state)

    def guarded(method):
        def call(self, *rest, **named):
            if self._rekindle_seen != _NOW[0] and not self._rekindle_own:
                self.seed()
            return method(self, *rest, **named)

        return call

    for name in ("random", "getrandbits", "gauss"):
        setattr(kind, name, guarded(getattr(kind, name)))
    kind.seed, kind.setstate = new_seed, new_setstate
    for name in ("random", "getrandbits", "gauss", "seed", "setstate"):
        setattr(module, name, getattr(module._inst, name))


def _change_ssl(module):
    seen = [_NOW[0]]

    def guarded(function):
        def call(*rest, **named):
            if seen[0] != _NOW[0]:
                now = _NOW[0]
                module.RAND_add(os.urandom(32), 32.0)  # all generators of the process draw from the one that it reseeds
                seen[0] = now
            return function(*rest, **named)

        return call

    module.RAND_bytes = guarded(module.RAND_bytes)
    module.SSLContext.__new__ = guarded(module.SSLContext.__new__)  # it draws the keys of its tickets
    for name in ("_wrap_socket", "_wrap_bio"):
        setattr(module.SSLContext, name, guarded(getattr(module.SSLContext, name)))


class _Finder:
    """Changes a module when it is imported: nobody pays for one that is not."""

    def find_spec(self, name, path=None, target=None):
        change = _CHANGES.pop(name, None)
        spec = PathFinder.find_spec(name, path, target) if change else None
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            change(module)

        spec.loader.exec_module = exec_module
        return spec


def _next_sitecustomize():
    """Run the one that this one hides: distributions have theirs."""
    here = os.path.dirname(os.path.abspath(__file__))
    spec = PathFinder.find_spec("sitecustomize", [path for path in sys.path if os.path.abspath(path) != here])
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(module_from_spec(spec))


_NOW = _counter()
_CHANGES = {"random": _change_random, "ssl": _change_ssl}
if _NOW is not None:
    for _name in [name for name in _CHANGES if name in sys.modules]:
        _CHANGES.pop(_name)(sys.modules[_name])
    sys.meta_path.insert(0, _Finder())
_next_sitecustomize()
