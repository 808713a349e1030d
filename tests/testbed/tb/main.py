# SPDX-License-Identifier: Apache-2.0
"""Command lines of prepare, run and shell."""

import argparse
import os
import shutil
import signal
import subprocess
import sys

from . import config, machine, payload, saved, session


class Interrupted(Exception):
    """A signal asks the driver to end."""


class Overdue(Exception):
    """Long after the time limit the driver is still busy: nobody reads its output."""


def interrupt(number, _frame):
    raise Interrupted(number)


def overdue(_number, _frame):
    raise Overdue()


def add_shape_options(parser):
    parser.add_argument("--mem", type=int, default=config.DEFAULT_MEMORY, metavar="MIB")
    parser.add_argument("--cpus", type=int, default=config.DEFAULT_CPUS, metavar="N")


def shape_of(options):
    if not config.MIN_MEMORY <= options.mem <= config.MAX_MEMORY:
        raise config.Trouble("--mem %d: the machine can have %d to %d MiB"
                             % (options.mem, config.MIN_MEMORY, config.MAX_MEMORY))
    most = 1 if config.icount() else config.MAX_CPUS
    if not 1 <= options.cpus <= most:
        raise config.Trouble("--cpus %d: the machine can have %s" % (
            options.cpus, "1 while time counts instructions" if most == 1 else "1 to %d" % most))
    return machine.Shape(options.mem, options.cpus, config.icount())


def need_tools():
    for tool in (config.QEMU, "qemu-img", "mke2fs"):
        if not shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"):
            raise config.Trouble("%s is missing: run scripts/setup" % tool)


def guarded(body):
    """Runs a main function: errors become a sentence and an exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    signal.signal(signal.SIGALRM, overdue)
    try:
        code = body(sys.argv[1:])
    except config.Trouble as trouble:
        config.say(str(trouble))
        code = config.EXIT_TROUBLE
    except Interrupted as interrupted:
        config.say("interrupted")
        code = 128 + interrupted.args[0]
    except Overdue:
        config.say("time-out: killed, and nobody takes the output")
        code = config.EXIT_TIMEOUT
    except BrokenPipeError:  # whoever read our output is gone
        code = 128 + signal.SIGPIPE
    except (OSError, subprocess.SubprocessError) as error:
        config.say("%s" % error)
        code = config.EXIT_TROUBLE
    sys.stderr.flush()
    os._exit(code)  # no flush of a broken stdout


def prepare(arguments):
    parser = argparse.ArgumentParser(prog="prepare", description="Make and save the testbed's machine, once.")
    add_shape_options(parser)
    parser.add_argument("--refresh", action="store_true", help="make it anew, from today's Debian packages")
    options = parser.parse_args(arguments)
    need_tools()
    print(saved.ensure(shape_of(options), options.refresh), flush=True)
    return 0


def add_run_options(parser):
    parser.add_argument("--timeout", type=float, default=config.DEFAULT_TIMEOUT, metavar="S",
                        help="seconds that CMD may run until everything is killed (exit code %d)" % config.EXIT_TIMEOUT)
    parser.add_argument("--results", metavar="DIR", help="what CMD leaves in /results comes back to DIR")
    parser.add_argument("--payload", action="append", default=[], metavar="DIR:DEST",
                        help="also carry DIR of this host, read-only, at DEST inside")
    parser.add_argument("--no-tree", action="store_true", help="do not carry the tree and its build output")
    add_shape_options(parser)
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--cwd", metavar="DIR", help="where CMD starts (%s; HOME with --no-tree)" % config.TREE_INSIDE)
    parser.add_argument("--user", default="root", help="root (default), or tester: uid 1000, may use /dev/kvm")
    parser.add_argument("--kernel-log", action="store_true", help="show the machine's kernel log as it comes")


def run_with(options, argv, use_tty):
    need_tools()
    env = {}
    for item in options.env:
        name, separator, value = item.partition("=")
        if not separator:
            raise config.Trouble("--env %s: NAME=VALUE is meant" % item)
        env[name] = value
    shape = shape_of(options)
    saved_directory = saved.ensure(shape)
    carried = payload.Payload()
    if not options.no_tree:
        carried.add_tree()
    for item in options.payload:
        directory, separator, destination = item.rpartition(":")
        if not separator:
            raise config.Trouble("--payload %s: DIR:DEST is meant" % item)
        carried.add(directory, destination)
    cwd = options.cwd or (None if options.no_tree else config.TREE_INSIDE)
    payload_fd = carried.image()
    resumed = None
    try:
        resumed = saved.resume(shape, saved_directory, payload_fd)
        signal.setitimer(signal.ITIMER_REAL, config.WAKE_TIMEOUT + options.timeout + config.STOP_TIMEOUT + 10)
        one = session.Session(resumed, argv, carried.binds(), options.timeout, options.results, env, cwd,
                              options.user, use_tty, options.kernel_log)
        if use_tty:
            with session.Terminal():
                return one.run()
        return one.run()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
        if resumed is not None:
            resumed.kill()
        os.close(payload_fd)


def run(arguments):
    parser = argparse.ArgumentParser(
        prog="run", description="Run a command in a machine with complete KVM, with tree and build output inside.",
        epilog="One CMD word is a line for the shell; several are a program and its arguments. Exit codes: CMD's own; "
        "%d: the machine failed; %d: time-out; %d: wrong use or the machine cannot be made."
        % (config.EXIT_FAULT, config.EXIT_TIMEOUT, config.EXIT_TROUBLE))
    add_run_options(parser)
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="CMD")
    options = parser.parse_args(arguments)
    command = options.command
    if command and command[0] == "--":
        command = command[1:]
    if not command:
        raise config.Trouble("no command given (run --help)")
    argv = ["/bin/bash", "-c", command[0]] if len(command) == 1 else command
    return run_with(options, argv, False)


def shell(arguments):
    parser = argparse.ArgumentParser(prog="shell", description="A shell in the testbed's machine.")
    add_run_options(parser)
    options = parser.parse_args(arguments)
    if not (os.isatty(0) and os.isatty(1)):
        raise config.Trouble("shell needs a terminal; for a command there is run")
    if options.timeout == config.DEFAULT_TIMEOUT:
        options.timeout = 86400.0
    return run_with(options, ["/bin/bash", "-i"], True)
