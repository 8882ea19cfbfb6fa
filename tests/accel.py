"""Which accelerator the machines of these tests run under, and how much slower this machine is than the usual ones.

`REKINDLE_TEST_ACCEL`: kvm or tcg. Unset: the driver's tests run under tcg, services choose for themselves. What was
asked for is what runs: QEMU gets one accelerator, services get it as `machine.accel`, and tests ask both.
Read when first imported: tests see no variables of ours in the environment.
"""

from __future__ import annotations

import os
from pathlib import Path

from rekindle.driver.base import Accel

DEMANDED = Accel(os.environ["REKINDLE_TEST_ACCEL"]) if os.environ.get("REKINDLE_TEST_ACCEL") else None
ACCEL = DEMANDED or Accel.TCG  #: of machines that a test starts by itself

#: The storage of an account that has built the example image, for machines that reach no packages; empty: none.
LAYERS = Path(os.environ["REKINDLE_TEST_LAYERS"]) if os.environ.get("REKINDLE_TEST_LAYERS") else None

#: Programs of the tests that were built elsewhere, for machines without Go; empty: none.
PROGRAMS = Path(os.environ["REKINDLE_TEST_PROGRAMS"]) if os.environ.get("REKINDLE_TEST_PROGRAMS") else None

#: The value of `machine.accel` for services of tests.
SETTING = DEMANDED.value if DEMANDED else "auto"
