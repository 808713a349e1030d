/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `supermachine run`: open the image, start a machine, run the command in it, end with its exit code.
 *
 * Until the command runs, signals have their usual effect: we die, and the machine with us. From then on they are the
 * command's (attach.c).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/attach.h"
#include "cli/command.h"
#include "cli/env.h"
#include "cli/progress.h"
#include "cli/registry_args.h"
#include "cli/tty.h"

struct run_options {
    bool interactive, quiet, tty, verbose;
    struct string_list env, env_files;
    const char *cwd, *user, *entrypoint, *hostname, *name, *kernel, *platform;
    uint32_t memory_mib, cpus, timeout_ms, stop_timeout_ms, start_timeout_ms;
    unsigned pull; /* index in pull_policies */
    struct registry_args registry;
};

/* In the order of --pull's words. */
static const enum sm_pull_policy pull_policies[] = {SM_PULL_MISSING, SM_PULL_ALWAYS, SM_PULL_NEVER};

#define AT(field) offsetof(struct run_options, field)

static const struct option_def run_table[] = {
    {"cpus", 0, OPTION_COUNT, AT(cpus), "N", "Processors of the machine, 1 to 16 (default 1)"},
    {"entrypoint", 0, OPTION_STRING, AT(entrypoint), "PROGRAM",
     "Run this instead of the image's ENTRYPOINT, and drop its CMD; \"\" drops both"},
    {"env", 'e', OPTION_LIST, AT(env), "NAME[=VALUE]",
     "Set an environment variable; without a value, as it is set here. May be given again"},
    {"env-file", 0, OPTION_LIST, AT(env_files), "FILE",
     "Set environment variables from a file of NAME=VALUE lines. May be given again; --env overrides"},
    {"hostname", 0, OPTION_STRING, AT(hostname), "NAME",
     "Host name in the machine (default: twelve random hex digits)"},
    {"interactive", 'i', OPTION_FLAG, AT(interactive), NULL, "Send standard input to the command"},
    {"kernel", 0, OPTION_STRING, AT(kernel), "FILE", "Boot this guest kernel, an ELF vmlinux"},
    {"memory", 'm', OPTION_MEMORY, AT(memory_mib), "SIZE",
     "Memory of the machine, as in 512m or 2g; a number alone is MiB (default 256m). Taken from the host as it is "
     "used"},
    {"name", 0, OPTION_STRING, AT(name), "NAME", "Name of the machine, used in messages"},
    {"platform", 0, OPTION_STRING, AT(platform), "OS/ARCH[/VARIANT]",
     "Choose this platform of the image (default: this host's)"},
    {"pull", 0, OPTION_CHOICE, AT(pull), "missing|always|never",
     "When to ask the image's registry: when the store does not have the image (the default), each time, or never"},
    {"quiet", 'q', OPTION_FLAG, AT(quiet), NULL, "Show no progress while the image is fetched"},
    {"rm", 0, OPTION_ACCEPTED, 0, NULL, "Accepted as Docker's: machines never leave anything behind"},
    {"start-timeout", 0, OPTION_DURATION, AT(start_timeout_ms), "TIME",
     "Give up when the guest has not come up after this time (default 60s)"},
    {"stop-timeout", 0, OPTION_DURATION, AT(stop_timeout_ms), "TIME",
     "After --timeout, time between the image's stop signal and SIGKILL (default 10s)"},
    {"timeout", 0, OPTION_DURATION, AT(timeout_ms), "TIME",
     "Stop the command after this time, as in 30s, 1m30s or 500ms; a number alone is seconds. The exit code is then "
     "124"},
    {"tty", 't', OPTION_FLAG, AT(tty), NULL, "Give the command a terminal"},
    {"user", 'u', OPTION_STRING, AT(user), "USER[:GROUP]",
     "User, by name or number, to run the command as (default: the image's, or root)"},
    {"verbose", 'v', OPTION_FLAG, AT(verbose), NULL,
     "Show the guest's console, its kernel's boot among it, on standard error"},
    {"workdir", 'w', OPTION_STRING, AT(cwd), "DIR", "Working directory; made when it is missing"},
    REGISTRY_OPTIONS(struct run_options),
    {0},
};

struct run {
    struct run_options o;
    struct env_list env;
    const char *entrypoint[2];
    struct sm_image *image;
    struct sm_vm *vm;
    struct sm_exec *exec;
};

static int read_environment(struct run *run)
{
    char why[ENV_WHY_MAX];

    for (size_t i = 0; i < run->o.env_files.n; i++) {
        const char *name = run->o.env_files.items[i];
        FILE *f = fopen(name, "re");
        int r;

        if (!f)
            return complain("--env-file: cannot open '%s': %s", name, strerror(errno));
        r = env_read(&run->env, f, name, why);
        fclose(f);
        if (r < 0)
            return complain("--env-file: %s", why);
    }
    for (size_t i = 0; i < run->o.env.n; i++)
        if (env_add(&run->env, run->o.env.items[i], why) < 0)
            return complain("--env: %s", why);
    return 0;
}

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

static int open_image(struct run *run, const char *ref)
{
    struct sm_image_options options = SM_IMAGE_OPTIONS_INIT;
    struct sm_registry_options registry;
    struct sm_error err = SM_ERROR_INIT;
    struct progress progress = {0};

    registry_args_fill(&registry, &run->o.registry);
    options.registry = &registry;
    options.pull = pull_policies[run->o.pull];
    options.platform = run->o.platform;
    progress_begin(&progress, run->o.quiet, ref, &options.event, &options.event_ctx);
    if (sm_image_open(&run->image, ref, &options, &err) < 0)
        return progress_failed(&progress, &err);
    progress_end(&progress);
    return 0;
}

/* The command; its lists are `run`'s and the caller's. */
static struct sm_exec_config command_config(struct run *run, char **argv)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;

    config.cmd = argv[0] ? (const char *const *)argv : NULL;
    if (run->o.entrypoint) {
        run->entrypoint[0] = run->o.entrypoint[0] ? run->o.entrypoint : NULL;
        config.entrypoint = run->entrypoint;
    }
    config.env = (const char *const *)run->env.items;
    config.cwd = run->o.cwd;
    config.user = run->o.user;
    config.tty = run->o.tty;
    config.timeout_ms = run->o.timeout_ms;
    config.grace_ms = run->o.stop_timeout_ms;
    config.in = run->o.interactive ? STDIN_FILENO : -1;
    config.out = STDOUT_FILENO;
    config.err = STDERR_FILENO;
    return config;
}

static int start_machine(struct run *run, char **argv)
{
    const struct sm_exec_config workload = command_config(run, argv);
    struct sm_bake_config bake = SM_BAKE_CONFIG_INIT;
    struct sm_vm_config config = SM_VM_CONFIG_INIT;
    struct sm_error err = SM_ERROR_INIT;

    bake.workload = &workload;
    config.bake = &bake;
    config.name = run->o.name;
    config.hostname = run->o.hostname;
    config.memory_mib = run->o.memory_mib;
    config.vcpus = run->o.cpus;
    config.kernel = run->o.kernel;
    config.start_timeout_ms = run->o.start_timeout_ms;
    if (run->o.verbose)
        config.console = show_console;
    return sm_vm_start(&run->vm, run->image, &config, &err) < 0 ? complain("%s", err.text) : 0;
}

static int start_command(struct run *run, char **argv)
{
    struct sm_exec_config config = command_config(run, argv);
    struct sm_error err = SM_ERROR_INIT;

    if (run->o.tty && !tty_size(STDOUT_FILENO, &config.rows, &config.cols))
        tty_size(STDIN_FILENO, &config.rows, &config.cols);
    if (attach_begin(run->o.tty) < 0)
        return complain("cannot take signals: %s", strerror(errno));
    if (sm_exec_start(&run->exec, run->vm, &config, &err) < 0)
        return complain("%s", err.text);
    if (run->o.tty && run->o.interactive && tty_set(STDIN_FILENO, TTY_RAW) < 0)
        return complain("cannot set the terminal: %s", strerror(errno));
    if (run->o.tty && !run->o.interactive)
        tty_set(STDOUT_FILENO, TTY_OUTPUT); /* no terminal: nothing to set */
    return 0;
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

static int run_run(int argc, char **argv)
{
    struct run run = {0};
    int first, code;

    if (!command_options(&command_run, argc, argv, &run.o, &first, &code))
        goto out;
    if (first == argc) {
        code = complain("run: which image? See 'supermachine run --help'");
        goto out;
    }
    code = check_terminal(&run.o);
    if (code == 0)
        code = read_environment(&run);
    if (code == 0)
        code = open_image(&run, argv[first]);
    if (code == 0)
        code = start_machine(&run, argv + first + 1);
    if (code == 0)
        code = start_command(&run, argv + first + 1);
    if (code == 0) {
        code = wait_for_end(&run);
        sm_vm_settle(run.vm);
        /* Our death is the machine's (see sm_vm_start); waiting until its memory is given back takes longer than the
           rest of the end, and nobody needs it. */
        fflush(NULL);
        _exit(code);
    }
out:
    tty_restore();
    sm_exec_free(run.exec);
    sm_vm_free(run.vm);
    sm_image_free(run.image);
    env_list_done(&run.env);
    string_list_done(&run.o.env);
    string_list_done(&run.o.env_files);
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
        "standard input).",
    .options = run_table,
    .passes_on = true,
    .notes = run_notes,
    .run = run_run,
};
