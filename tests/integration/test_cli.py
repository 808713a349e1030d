# SPDX-License-Identifier: Apache-2.0
"""The command line without a machine: help, version, doctor, manual pages, refusals of wrong lines."""
import json
import re
import subprocess

import pytest

from conftest import OUT, ROOT, needs_program, refused

TABLE = (ROOT / "src/cli/commands.def").read_text()
SUBVERBS = tuple(" ".join(words) for words in re.findall(r"^SUBCOMMAND\((\w+), (\w+)\)$", TABLE, re.MULTILINE))
VERBS = (*re.findall(r"^COMMAND\((\w+)\)$", TABLE, re.MULTILINE), *SUBVERBS)
GROUPS = {verb.split()[0] for verb in SUBVERBS}
STORE_VERBS = {"pull", "images", "inspect", "history", "tag", "rmi", "prune", "save", "load", "du", "fsck"}


def test_verbs_are_there():
    assert {"run", "bake", "setup", "snapshot", "doctor", "version", "help"} | STORE_VERBS == set(VERBS) - set(SUBVERBS)
    assert {f"snapshot {verb}" for verb in ("create", "ls", "inspect", "rm", "export", "import", "verify")} == set(SUBVERBS)


def test_overview_names_all_commands(sm):
    for args in ((), ("help",), ("--help",), ("-h",)):
        result = sm(*args)
        assert result.returncode == 0 and result.stderr == b""
        for verb in set(VERBS) - GROUPS:
            assert f"supermachine {verb}" in result.stdout.decode()


def test_help_of_a_group_names_what_is_below(sm):
    text = sm("snapshot", "--help").stdout.decode()
    for verb in SUBVERBS:
        assert f"supermachine {verb}" in text


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_command(sm, verb):
    result = sm(*verb.split(), "--help")
    assert result.returncode == 0
    text = result.stdout.decode()
    assert text.startswith(f"usage: supermachine {verb} ")
    assert "--help" in text
    assert all(len(line) <= 100 for line in text.splitlines())
    assert sm("help", *verb.split()).stdout == result.stdout
    options = re.findall(r"^  (?:-\w, |    )--([\w-]+)", text, re.MULTILINE)
    assert options == [*sorted(set(options) - {"help"}), "help"]


def test_run_help_has_what_docker_users_look_for(sm):
    text = sm("run", "--help").stdout.decode()
    for option in ("-i, --interactive", "-t, --tty", "-e, --env", "--env-file", "-w, --workdir", "-u, --user",
                   "--entrypoint", "-m, --memory", "--cpus", "--hostname", "--name", "--rm", "--timeout", "--kernel",
                   "-v, --verbose", "--pull missing|always|never", "--platform", "--boot", "--snapshot NAME|DIR",
                   "--trigger WHEN", "--require-listener", "--extra-file FILE:PATH", "--no-base"):
        assert option in text, option


@pytest.mark.parametrize("verb", ["run", "bake", "pull", "save", "fsck"])
def test_who_talks_to_registries_has_their_options(sm, verb):
    text = sm(verb, "--help").stdout.decode()
    for option in ("--auth-file FILE", "--ca-file FILE", "--cert-file FILE", "--key-file FILE", "--plain-http"):
        assert option in text, option


@pytest.mark.parametrize("verb", sorted(STORE_VERBS - {"save", "tag"}))
def test_who_tells_something_can_tell_it_in_json(sm, verb):
    assert "--json" in sm(verb, "--help").stdout.decode()


def test_version(sm):
    plain = sm("version")
    assert plain.returncode == 0
    found = re.fullmatch(rb"supermachine (\d+\.\d+\.\d+) \(\w+\)\n", plain.stdout)
    assert found
    told = json.loads(sm("version", "--json").stdout)
    assert told["version"] == found[1].decode()
    assert sm("--version").stdout == plain.stdout


def test_doctor_tells_in_sentences_and_json(sm):
    told = sm("doctor", "--json")
    report = json.loads(told.stdout)
    checks = {check["name"]: check for check in report["checks"]}
    assert {"host", "kvm", "self-test", "worker", "kernel", "agent", "store", "registries", "user-namespaces", "landlock",
            "seccomp"} <= checks.keys()
    assert all(check["status"] in ("ok", "note", "failed") and check["text"] for check in checks.values())
    assert report["usable"] == all(check["status"] != "failed" for check in checks.values())
    assert told.returncode == (0 if report["usable"] else 1)
    plain = sm("doctor")
    assert plain.returncode == told.returncode
    for check in checks.values():
        if check["name"] != "self-test":  # its sentence holds a time
            assert check["text"] in plain.stdout.decode()


def test_doctor_finds_a_bad_kernel(sm, tmp_path):
    bad = tmp_path / "vmlinux"
    bad.write_bytes(b"not a kernel" * 100)
    checks = {c["name"]: c for c in json.loads(sm("doctor", "--json", "--kernel", bad).stdout)["checks"]}
    assert checks["kernel"]["status"] == "failed"
    assert "not a kernel" in checks["kernel"]["text"]


@pytest.mark.parametrize("args, words", [
    (("fly",), "no command 'fly'"),
    (("run",), "which image"),
    (("run", "--nothing", "oci:x"), "--nothing is not an option"),
    (("run", "-m", "lots", "oci:x"), "--memory: 'lots' is not understood"),
    (("run", "-m"), "-m needs a value"),
    (("run", "--cpus", "0", "oci:x"), "--cpus: '0' is out of range"),
    (("run", "--cpus", "1.5", "oci:x"), "--cpus: '1.5' is not understood"),
    (("run", "--timeout", "soon", "oci:x"), "--timeout: 'soon'"),
    (("run", "-e", "=x", "oci:x"), "has no name"),
    (("run", "--env-file", "/nowhere/file", "oci:x"), "cannot open '/nowhere/file'"),
    (("run", "-it", "oci:x"), "standard input is none"),
    (("run", "--pull", "sometimes", "x"), "--pull: 'sometimes' is not understood: give one of missing"),
    (("run", "--trigger", "now", "x"), "--trigger: 'now' is not understood"),
    (("run", "--trigger", "after=", "x"), "--trigger: 'after=' is not understood"),
    (("run", "--trigger", "heartbeat=x", "x"), "--trigger: 'heartbeat=x' is not understood"),
    (("run", "--trigger", "pre-exec", "--require-listener", "x"), "waits for no listener"),
    (("run", "--after", "0", "x"), "--after: '0' is out of range: give as in 500"),
    (("run", "--extra-file", "relative:path", "x"), "--extra-file: 'relative:path' is not understood"),
    (("run", "--extra-file", ":/etc/x", "x"), "--extra-file: ':/etc/x' is not understood"),
    (("run", "--snapshot", "x", "-m", "1g"), "--memory cannot be given with --snapshot"),
    (("run", "--snapshot", "x", "--boot"), "--boot cannot be given with --snapshot"),
    (("bake",), "which image"),
    (("bake", "--trigger", "soon", "x"), "--trigger: 'soon'"),
    (("setup", "x"), "one word too many"),
    (("snapshot",), "what is to be done"),
    (("snapshot", "fly"), "no command 'snapshot fly'"),
    (("snapshot", "create"), "name a machine"),
    (("snapshot", "create", "a", "b", "c"), "name a machine"),
    (("snapshot", "create", "a/b"), "'a/b' is not the name of a machine"),
    (("snapshot", "create", "nobody"), "no machine named 'nobody' runs"),
    (("snapshot", "ls", "x"), "one word too many"),
    (("snapshot", "inspect"), "which snapshot"),
    (("snapshot", "rm"), "which snapshot"),
    (("snapshot", "verify"), "which snapshot"),
    (("snapshot", "export"), "name one snapshot"),
    (("snapshot", "import", "a", "b"), "one FILE at most"),
    (("help", "snapshot", "fly"), "no command 'snapshot fly'"),
    (("help", "run", "fast"), "no command 'run fast'"),
    (("pull",), "name one image"),
    (("pull", "a", "b"), "name one image"),
    (("pull", "oci:x"), "not in a registry"),
    (("pull", "UPPER"), "UPPER"),
    (("images", "a", "b"), "one NAME at most"),
    (("tag", "a"), "an image and its new name"),
    (("rmi",), "which image"),
    (("prune", "a"), "one word too many"),
    (("prune", "--older-than", "soon"), "--older-than: 'soon' is not understood"),
    (("prune", "--max-size", "0"), "--max-size: '0' is out of range"),
    (("save",), "which image"),
    (("load", "a"), "one word too many"),
    (("history",), "name one image"),
    (("inspect",), "which image"),
    (("du", "a"), "one word too many"),
    (("fsck", "a"), "one word too many"),
    (("help", "fly"), "no command 'fly'"),
    (("help", "--completion", "tcsh"), "no completion for 'tcsh'"),
])
def test_wrong_lines_are_refused(sm, args, words):
    refused(sm(*args), words)


def test_bad_env_file_names_its_line(sm, tmp_path):
    file = tmp_path / "vars"
    file.write_text("A=1\nB C=2\n")
    refused(sm("run", "--env-file", file, "oci:x"), "line 2 of", "'B C'")


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_manual_pages_are_clean(sm, verb):
    result = sm("help", "--man", *(verb.split() if verb else []))
    assert result.returncode == 0
    assert result.stdout.startswith(b".TH SUPERMACHINE")
    groff = needs_program("groff")
    checked = subprocess.run([groff, "-man", "-ww", "-z", "-Tutf8"], input=result.stdout, capture_output=True)
    assert checked.returncode == 0 and checked.stderr == b"", checked.stderr.decode()


def test_bash_completion_completes(sm):
    bash = needs_program("bash")
    script = sm("help", "--completion", "bash").stdout.decode()
    ask = 'COMP_WORDS=(supermachine {}); COMP_CWORD={}; _supermachine; echo "${{COMPREPLY[*]}}"'

    def complete(words, at):
        return subprocess.run([bash, "-c", script + "\n" + ask.format(words, at)], capture_output=True, text=True,
                              check=True).stdout.split()

    assert complete("ru", 1) == ["run"]
    assert "--entrypoint" in complete("run --en", 2)
    assert complete("run --pull ''", 3) == ["missing", "always", "never"]
    assert complete("run --pull n", 3) == ["never"]
    assert complete("snapshot ''", 2) == ["create", "ls", "inspect", "rm", "export", "import", "verify"]
    assert complete("snapshot ex", 2) == ["export"]
    assert complete("snapshot create --st", 3) == ["--stop"]
    assert complete("snap", 1) == ["snapshot"]


def test_shared_library_exports_its_interface_only(built):
    nm = needs_program("nm")
    library = OUT / "src/lib/libsupermachine.so"
    listed = subprocess.run([nm, "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    names = {line.split()[-1].split("@")[0] for line in listed.splitlines() if " T " in line or " D " in line}
    header = (ROOT / "include/supermachine/supermachine.h").read_text()
    assert names == set(re.findall(r"SM_API [^;(]*?\b(sm_\w+)\(", header))
