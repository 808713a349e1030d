/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: options that `run` and `bake` have in common, see start_args.h.
 *
 * The command line's words become the library's configuration in three steps, so that everything that can be wrong with
 * a line is said before anything is fetched or started: start_args_read() understands values and reads files,
 * start_args_command() and start_args_machine() only point at what it made.
 *
 * --extra-file is cut at its last ":/": the guest's path is absolute, the host's may hold a colon.
 */
#include "cli/start_args.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/progress.h"
#include "cli/values.h"

/* In the order of --pull's words. */
static const enum sm_pull_policy pull_policies[] = {SM_PULL_MISSING, SM_PULL_ALWAYS, SM_PULL_NEVER};

static int read_environment(struct start_args *a)
{
    char why[ENV_WHY_MAX];

    for (size_t i = 0; i < a->env_files.n; i++) {
        const char *name = a->env_files.items[i];
        FILE *f = fopen(name, "re");
        int r;

        if (!f)
            return complain("--env-file: cannot open '%s': %s", name, strerror(errno));
        r = env_read(&a->env_list, f, name, why);
        fclose(f);
        if (r < 0)
            return complain("--env-file: %s", why);
    }
    for (size_t i = 0; i < a->env.n; i++)
        if (env_add(&a->env_list, a->env.items[i], why) < 0)
            return complain("--env: %s", why);
    return 0;
}

static const char *last_of(const char *s, const char *what)
{
    const char *found = NULL;

    while ((s = strstr(s, what)))
        found = s++;
    return found;
}

static int read_files(struct start_args *a)
{
    a->files = calloc(a->extra_files.n + 1, sizeof(*a->files));
    a->file_names = calloc(a->extra_files.n + 1, sizeof(*a->file_names));
    if (!a->files || !a->file_names)
        return complain("out of memory");
    for (size_t i = 0; i < a->extra_files.n; i++) {
        const char *given = a->extra_files.items[i], *cut = last_of(given, ":/");

        if (!cut || cut == given)
            return complain("--extra-file: '%s' is not understood: give FILE:PATH, as in ./app.conf:/etc/app.conf",
                            given);
        a->file_names[i] = strndup(given, (size_t)(cut - given));
        if (!a->file_names[i])
            return complain("out of memory");
        a->files[i] = (struct sm_bake_file){.host = a->file_names[i], .guest = cut + 1};
    }
    return 0;
}

int start_args_read(struct start_args *a)
{
    struct sm_bake_config bake = SM_BAKE_CONFIG_INIT;
    struct sm_vm_config config = SM_VM_CONFIG_INIT;
    int code = read_environment(a);

    if (code == 0)
        code = read_files(a);
    /* For its sentences. */
    return code ? code : start_args_machine(a, NULL, &config, &bake);
}

void start_args_done(struct start_args *a)
{
    for (size_t i = 0; a->file_names && i < a->extra_files.n; i++)
        free(a->file_names[i]);
    free(a->file_names);
    free(a->files);
    env_list_done(&a->env_list);
    string_list_done(&a->env);
    string_list_done(&a->env_files);
    string_list_done(&a->extra_files);
}

int start_args_open(const struct start_args *a, const char *ref, struct sm_image **ret)
{
    struct sm_image_options options = SM_IMAGE_OPTIONS_INIT;
    struct sm_registry_options registry;
    struct sm_error err = SM_ERROR_INIT;
    struct progress progress = {0};

    registry_args_fill(&registry, &a->registry);
    options.registry = &registry;
    options.pull = pull_policies[a->pull];
    options.platform = a->platform;
    progress_begin(&progress, a->quiet, ref, &options.event, &options.event_ctx);
    if (sm_image_open(ret, ref, &options, &err) < 0)
        return progress_failed(&progress, &err);
    progress_end(&progress);
    return 0;
}

void start_args_command(struct start_args *a, char **argv, struct sm_exec_config *config)
{
    config->cmd = argv[0] ? (const char *const *)argv : NULL;
    if (a->entrypoint) {
        a->entrypoint_list[0] = a->entrypoint[0] ? a->entrypoint : NULL;
        config->entrypoint = a->entrypoint_list;
    }
    config->env = (const char *const *)a->env_list.items;
    config->cwd = a->cwd;
    config->user = a->user;
}

static int read_trigger(const struct start_args *a, struct sm_bake_config *bake)
{
    static const struct {
        const char *word;
        enum sm_trigger trigger;
    } words[] = {
        {"pre-exec", SM_TRIGGER_PRE_EXEC}, {"listener", SM_TRIGGER_LISTENER},    {"parked", SM_TRIGGER_PARKED},
        {"after=", SM_TRIGGER_AFTER},      {"heartbeat=", SM_TRIGGER_HEARTBEAT},
    };
    const char *given = a->trigger;
    uint32_t number = 0;

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        size_t n = strlen(words[i].word);

        if (words[i].word[n - 1] != '=' ? strcmp(given, words[i].word) != 0 : strncmp(given, words[i].word, n) != 0)
            continue;
        bake->trigger = words[i].trigger;
        if (bake->trigger == SM_TRIGGER_AFTER && value_ms(given + n, &number) == 0)
            bake->after_ms = number;
        else if (bake->trigger == SM_TRIGGER_HEARTBEAT && value_count(given + n, &number) == 0)
            bake->heartbeat = number;
        else if (words[i].word[n - 1] == '=')
            break;
        return 0;
    }
    return complain("--trigger: '%s' is not understood: give pre-exec, listener, parked, heartbeat=N or after=MS",
                    given);
}

int start_args_machine(struct start_args *a, const struct sm_exec_config *command, struct sm_vm_config *config,
                       struct sm_bake_config *bake)
{
    config->memory_mib = a->memory_mib;
    config->vcpus = a->cpus;
    config->kernel = a->kernel;
    config->start_timeout_ms = a->start_timeout_ms;
    config->no_base = a->no_base;
    config->bake = bake;
    bake->workload = command;
    bake->after_ms = a->after_ms;
    bake->quiesce_ms = a->quiesce_ms;
    bake->tag = a->tag;
    bake->files = a->files;
    bake->n_files = a->extra_files.n;
    if (a->warmup) {
        a->warmup_list[0] = "/bin/sh";
        a->warmup_list[1] = "-c";
        a->warmup_list[2] = a->warmup;
        bake->warmup = a->warmup_list;
    }
    if (a->trigger && read_trigger(a, bake) != 0)
        return EXIT_OURS;
    if (a->require_listener) {
        if (a->trigger && bake->trigger != SM_TRIGGER_LISTENER)
            return complain("--require-listener: the trigger '%s' waits for no listener: leave one of the two out",
                            a->trigger);
        bake->trigger = SM_TRIGGER_LISTENER;
        bake->require_listener = 1;
    }
    return 0;
}
