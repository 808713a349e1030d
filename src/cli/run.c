/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `supermachine run`: open the image (or a snapshot), start a machine, run the command in it, end with its
 * exit code.
 *
 * Until the command runs, signals have their usual effect: we die, and the machine with us. From then on they are the
 * command's (attach.c).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/attach.h"
#include "cli/record.h"
#include "cli/start_args.h"
#include "cli/steps.h"
#include "cli/tty.h"

struct run_options {
    bool boot, interactive, profile, tty, verbose;
    const char *hostname, *name, *snapshot;
    uint32_t timeout_ms, stop_timeout_ms;
    struct start_args start;
};

#define AT(field) offsetof(struct run_options, field)

static const struct option_def run_table[] = {
    {"boot", 0, OPTION_FLAG, AT(boot), NULL,
     "Boot the machine: snapshots are neither used nor made. With --verbose the guest's console is shown, too"},
    {"hostname", 0, OPTION_STRING, AT(hostname), "NAME",
     "Host name in the machine (default: twelve random hex digits)"},
    {"interactive", 'i', OPTION_FLAG, AT(interactive), NULL, "Send standard input to the command"},
    {"name", 0, OPTION_STRING, AT(name), "NAME",
     "Name of the machine, by which 'supermachine snapshot create' finds it, and used in messages"},
    {"profile", 0, OPTION_FLAG, AT(profile), NULL,
     "At the end, tell on standard error what made the machine leave its processors, how often and for how long"},
    {"rm", 0, OPTION_ACCEPTED, 0, NULL, "Accepted as Docker's: machines never leave anything behind"},
    {"snapshot", 0, OPTION_STRING, AT(snapshot), "NAME|DIR",
     "Start from this snapshot, of the store or in a directory, with its image, memory and processors; there is no "
     "IMAGE on the line then"},
    {"stop-timeout", 0, OPTION_DURATION, AT(stop_timeout_ms), "TIME",
     "After --timeout, time between the image's stop signal and SIGKILL (default 10s)"},
    {"timeout", 0, OPTION_DURATION, AT(timeout_ms), "TIME",
     "Stop the command after this time, as in 30s, 1m30s or 500ms; a number alone is seconds. The exit code is then "
     "124"},
    {"tty", 't', OPTION_FLAG, AT(tty), NULL, "Give the command a terminal"},
    {"verbose", 'v', OPTION_FLAG, AT(verbose), NULL, "Tell on standard error what is done to start the machine"},
    START_OPTIONS(struct run_options),
    {0},
};

struct run {
    struct run_options o;
    struct sm_exec_config command;
    struct sm_image *image;
    struct sm_snapshot *snapshot;
    struct sm_vm *vm;
    struct sm_exec *exec;
};

static int check_terminal(const struct run_options *o)
{
    if (o->tty && o->interactive && !isatty(STDIN_FILENO))
        return complain("-it needs a terminal, and standard input is none: leave -t out");
    return 0;
}

static void show_console(void *ctx, const char *data, size_t len)
{
    (void)ctx;
    fwrite(data, 1, len, stderr);
}

/* Everything about the command, so that what is baked is what is run. */
static void describe_command(struct run *run, char **argv)
{
    struct sm_exec_config *c = &run->command;

    *c = (struct sm_exec_config)SM_EXEC_CONFIG_INIT;
    start_args_command(&run->o.start, argv, c);
    c->tty = run->o.tty;
    c->timeout_ms = run->o.timeout_ms;
    c->grace_ms = run->o.stop_timeout_ms;
    c->in = run->o.interactive ? STDIN_FILENO : -1;
    c->out = STDOUT_FILENO;
    c->err = STDERR_FILENO;
    c->workload = !c->tty && c->in < 0;
}

static int start_machine(struct run *run, const char *label)
{
    struct sm_bake_config bake = SM_BAKE_CONFIG_INIT;
    struct sm_vm_config config = SM_VM_CONFIG_INIT;
    struct sm_error err = SM_ERROR_INIT;
    struct steps steps;
    int r, code = start_args_machine(&run->o.start, &run->command, &config, &bake);

    if (code)
        return code;
    config.name = run->o.name;
    config.share = run->o.name != NULL;
    config.profile = run->o.profile;
    config.hostname = run->o.hostname;
    config.boot = run->o.boot;
    if (run->o.verbose && run->o.boot)
        config.console = show_console;
    steps_begin(&steps, run->o.start.quiet, run->o.verbose, label, &config);
    r = run->snapshot ? sm_vm_restore(&run->vm, run->snapshot, &config, &err)
                      : sm_vm_start(&run->vm, run->image, &config, &err);
    steps_end(&steps);
    if (r < 0)
        return complain("%s", err.text);
    steps_started(&steps, run->vm);
    return 0;
}

static int start_command(struct run *run)
{
    struct sm_error err = SM_ERROR_INIT;

    if (run->o.tty && !tty_size(STDOUT_FILENO, &run->command.rows, &run->command.cols))
        tty_size(STDIN_FILENO, &run->command.rows, &run->command.cols);
    if (attach_begin(run->o.tty) < 0)
        return complain("cannot take signals: %s", strerror(errno));
    if (sm_exec_start(&run->exec, run->vm, &run->command, &err) < 0)
        return complain("%s", err.text);
    if (run->o.tty && run->o.interactive && tty_set(STDIN_FILENO, TTY_RAW) < 0)
        return complain("cannot set the terminal: %s", strerror(errno));
    if (run->o.tty && !run->o.interactive)
        tty_set(STDOUT_FILENO, TTY_OUTPUT); /* no terminal: nothing to set */
    return 0;
}

static void print_profile(const struct run *run)
{
    char *text;

    if (!run->o.profile || sm_vm_profile(&text, run->vm, NULL) < 0)
        return; /* the machine has ended with its command */
    fflush(stdout);
    fputs(text, stderr);
    sm_string_free(text);
}

static int wait_for_end(struct run *run)
{
    struct sm_exec_result result = {.size = sizeof(result)};
    struct sm_error err = SM_ERROR_INIT;
    int r = attach_wait(run->vm, run->exec, &result, &err);

    tty_restore();
    if (r < 0)
        return complain("%s", err.text);
    if (result.message[0])
        complain("%s", result.message);
    if (!result.timed_out)
        return result.exit_code;
    complain("the command was stopped: its time (--timeout) was over");
    return EXIT_TIMED_OUT;
}

/* What --snapshot decides already. */
static int check_snapshot(const struct run_options *o)
{
    const struct start_args *s = &o->start;
    const char *other = o->boot               ? "--boot"
                        : s->memory_mib       ? "--memory"
                        : s->cpus             ? "--cpus"
                        : s->kernel           ? "--kernel"
                        : s->trigger          ? "--trigger"
                        : s->require_listener ? "--require-listener"
                        : s->warmup           ? "--warmup"
                        : s->tag              ? "--tag"
                        : s->extra_files.n    ? "--extra-file"
                        : s->no_base          ? "--no-base"
                                              : NULL;

    if (other)
        return complain("run: a snapshot is as it is: %s cannot be given with --snapshot", other);
    return 0;
}

static int open_snapshot(struct run *run)
{
    struct sm_error err = SM_ERROR_INIT;
    struct sm_store *store;
    int r, code = check_snapshot(&run->o);

    if (code == 0)
        code = store_open(&store);
    if (code)
        return code;
    r = sm_snapshot_open(&run->snapshot, store, run->o.snapshot, &err);
    sm_store_free(store);
    return r < 0 ? complain("%s", err.text) : 0;
}

static int run_run(int argc, char **argv)
{
    struct run run = {0};
    int first, code;

    if (!command_options(&command_run, argc, argv, &run.o, &first, &code))
        goto out;
    if (first == argc && !run.o.snapshot) {
        code = complain("run: which image? See 'supermachine run --help'");
        goto out;
    }
    code = check_terminal(&run.o);
    if (code == 0)
        code = start_args_read(&run.o.start);
    if (code == 0)
        code = run.o.snapshot ? open_snapshot(&run) : start_args_open(&run.o.start, argv[first], &run.image);
    if (code == 0) {
        describe_command(&run, argv + first + (run.o.snapshot ? 0 : 1));
        code = start_machine(&run, run.o.snapshot ? run.o.snapshot : argv[first]);
    }
    if (code == 0)
        code = start_command(&run);
    if (code == 0) {
        code = wait_for_end(&run);
        print_profile(&run);
        sm_vm_settle(run.vm);
        /* Our death is the machine's (see sm_vm_start); waiting until its memory is given back takes longer than the
           rest of the end, and nobody needs it. A name is given up. */
        fflush(NULL);
        if (!run.o.name)
            _exit(code);
    }
out:
    tty_restore();
    sm_exec_free(run.exec);
    sm_vm_free(run.vm);
    sm_snapshot_free(run.snapshot);
    sm_image_free(run.image);
    start_args_done(&run.o.start);
    return code;
}

static const char *const run_notes[] = {
    "EXIT STATUS",
    "125: supermachine itself failed; one sentence on standard error says what, on what, and what to do.\n\n"
    "126: the command was found but could not be executed; 127: it was not found.\n\n"
    "124: its time (--timeout) was over.\n\n"
    "128 + n: it was killed by signal n.\n\n"
    "Otherwise the command's own.",
    "SIGNALS",
    "SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2 and SIGALRM are passed on to the command. When it has not "
    "ended "
    "by the third of the first four, the machine is ended without it. With -it the keys of the terminal reach the "
    "command as they are: its own terminal makes signals of them.",
    "ENVIRONMENT",
    "SUPERMACHINE_HOME: directory of the image store (default $XDG_DATA_HOME/supermachine, else "
    "~/.local/share/supermachine).\n\n"
    "SUPERMACHINE_KERNEL, SUPERMACHINE_INITRAMFS, SUPERMACHINE_VMM: the guest's kernel and agent and the worker, "
    "instead of the installed ones.",
    TRIGGER_NOTES,
    REGISTRY_NOTES,
    "EXAMPLES",
    "supermachine run debian cat /etc/os-release\n\n"
    "supermachine run -it --pull always registry.example/team/app:1.2 sh\n\n"
    "tar c . | supermachine run -i oci:./debian sha256sum\n\n"
    "docker save app | supermachine run docker-archive:-",
    NULL,
};

const struct command command_run = {
    .name = "run",
    .operands = "IMAGE [COMMAND [ARG...]]",
    .summary = "run a command in a new machine",
    .about =
        "Starts a machine with IMAGE as its root file system, runs COMMAND in it (or what the image is for), and "
        "ends with the command's exit code. The root can be written; what is written is gone when the command "
        "ends.\n\nIMAGE is a name as for Docker (nginx, user/app:tag, host:5000/app, name@sha256:...), fetched from "
        "its registry when the store does not have it; or the id of an image in the store; or oci:DIR or oci:DIR:TAG "
        "(an OCI layout directory), oci-archive:FILE, docker-archive:FILE (what 'docker save' writes; \"-\" is "
        "standard input).\n\nThe first run of an image bakes it: the machine is saved at a good moment, before it goes "
        "on. Later runs restore that snapshot, in a time that does not depend on the memory's size. What makes a "
        "difference to it (image, memory, processors, kernel, trigger, extra files, ...) has a snapshot of its own.",
    .options = run_table,
    .passes_on = true,
    .notes = run_notes,
    .run = run_run,
};
