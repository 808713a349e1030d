# SPDX-License-Identifier: Apache-2.0
"""The C interface on real machines: each check of library.c is a test; and the example program."""
import subprocess

import pytest

from conftest import OUT, RUN_TIMEOUT, environment, image

pytestmark = pytest.mark.kvm

CHECKS = ("many-execs", "concurrent-execs", "refusals", "stats-and-console", "stop", "killed-worker", "free-kills",
          "timeout-and-stdin", "no-leaks", "two-machines", "lives", "saves",
          "triggers")


@pytest.fixture
def program(home):
    def run(*args, **kwargs):
        # The program finds the library by its own run path, or beside the build.
        env = environment(home, {"LD_LIBRARY_PATH": str(OUT / "src/lib")})
        return subprocess.run([str(a) for a in args], capture_output=True, text=True, timeout=2 * RUN_TIMEOUT, env=env,
                              **kwargs)

    return run


def test_list_is_complete(program):
    assert program(OUT / "tests/integration/library", "list").stdout.split() == [*CHECKS, "service"]


@pytest.mark.parametrize("check", CHECKS)
def test_library(program, busybox, check):
    result = program(OUT / "tests/integration/library", check, busybox, stdin=subprocess.DEVNULL)
    assert result.returncode == 0, result.stderr


def test_service(program, home):
    result = program(OUT / "tests/integration/library", "service", image("nginx"), stdin=subprocess.DEVNULL)
    assert result.returncode == 0, result.stderr


def test_example_runs(program, busybox):
    result = program(OUT / "examples/run", busybox, "cat", input="through\n")
    assert result.stdout == "through\n"
    assert "exit code 0" in result.stderr
    result = program(OUT / "examples/run", "oci:/nowhere", "true")
    assert result.returncode == 125 and "/nowhere" in result.stderr
