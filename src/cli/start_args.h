/* SPDX-License-Identifier: Apache-2.0 */
/* What `run` and `bake` have in common: the image, the machine, its command, and how it is baked. */
#ifndef SM_CLI_START_ARGS_H
#define SM_CLI_START_ARGS_H

#include "cli/command.h"
#include "cli/env.h"
#include "cli/registry_args.h"

/* Begins zeroed. */
struct start_args {
    /* Options. */
    bool no_base, quiet, require_listener;
    struct string_list env, env_files, extra_files;
    const char *cwd, *user, *entrypoint, *kernel, *platform, *trigger, *warmup, *tag;
    uint32_t memory_mib, cpus, start_timeout_ms, after_ms, quiesce_ms;
    unsigned pull; /* index of --pull's words */
    struct registry_args registry;

    /* What they come to: start_args_read(). */
    struct env_list env_list;
    const char *entrypoint_list[2], *warmup_list[4];
    struct sm_bake_file *files;
    char **file_names; /* of `files`, to be freed */
};

/* Their rows, for the table of a command whose options struct is `type` and has them as `start`. */
/* clang-format off */
#define START_OPTIONS(type)                                                                                            \
    {"after", 0, OPTION_MS, offsetof(type, start.after_ms), "MS",                                                      \
     "Bake at the latest after this time, whatever the trigger waits for (default 7000)"},                             \
    {"cpus", 0, OPTION_COUNT, offsetof(type, start.cpus), "N", "Processors of the machine, 1 to 16 (default 1)"},      \
    {"entrypoint", 0, OPTION_STRING, offsetof(type, start.entrypoint), "PROGRAM",                                      \
     "Run this instead of the image's ENTRYPOINT, and drop its CMD; \"\" drops both"},                                 \
    {"env", 'e', OPTION_LIST, offsetof(type, start.env), "NAME[=VALUE]",                                               \
     "Set an environment variable; without a value, as it is set here. May be given again"},                           \
    {"env-file", 0, OPTION_LIST, offsetof(type, start.env_files), "FILE",                                              \
     "Set environment variables from a file of NAME=VALUE lines. May be given again; --env overrides"},                \
    {"extra-file", 0, OPTION_LIST, offsetof(type, start.extra_files), "FILE:PATH",                                     \
     "Put this file of the host's into the machine, at PATH, before its snapshot is taken. May be given again"},       \
    {"kernel", 0, OPTION_STRING, offsetof(type, start.kernel), "FILE", "Boot this guest kernel, an ELF vmlinux"},      \
    {"memory", 'm', OPTION_MEMORY, offsetof(type, start.memory_mib), "SIZE",                                           \
     "Memory of the machine, as in 512m or 2g; a number alone is MiB (default 256m). Taken from the host as it is "    \
     "used"},                                                                                                          \
    {"no-base", 0, OPTION_FLAG, offsetof(type, start.no_base), NULL,                                                   \
     "To bake, boot the machine instead of restoring the base snapshot, and store all of its memory"},                 \
    {"platform", 0, OPTION_STRING, offsetof(type, start.platform), "OS/ARCH[/VARIANT]",                                \
     "Choose this platform of the image (default: this host's)"},                                                      \
    {"pull", 0, OPTION_CHOICE, offsetof(type, start.pull), "missing|always|never",                                     \
     "When to ask the image's registry: when the store does not have the image (the default), each time, or never"},   \
    {"quiesce", 0, OPTION_MS, offsetof(type, start.quiesce_ms), "MS",                                                  \
     "How long the machine may take to come to rest before its snapshot is taken (default 100)"},                      \
    {"quiet", 'q', OPTION_FLAG, offsetof(type, start.quiet), NULL,                                                     \
     "Show no progress while the image is fetched and baked"},                                                         \
    {"require-listener", 0, OPTION_FLAG, offsetof(type, start.require_listener), NULL,                                 \
     "With the listener trigger: fail when nothing listens in time, instead of baking without"},                       \
    {"start-timeout", 0, OPTION_DURATION, offsetof(type, start.start_timeout_ms), "TIME",                              \
     "Give up when the guest has not come up after this time (default 60s)"},                                          \
    {"tag", 0, OPTION_STRING, offsetof(type, start.tag), "TEXT",                                                       \
     "Keep this snapshot apart from others of the same image, by this text (for those of different warm-ups)"},        \
    {"trigger", 0, OPTION_STRING, offsetof(type, start.trigger), "WHEN",                                               \
     "When the snapshot is taken: pre-exec, listener, parked, heartbeat=N or after=MS (default: listener for a "       \
     "service that is run as its image says, pre-exec for everything else)"},                                          \
    {"user", 'u', OPTION_STRING, offsetof(type, start.user), "USER[:GROUP]",                                           \
     "User, by name or number, to run the command as (default: the image's, or root)"},                                \
    {"warmup", 0, OPTION_STRING, offsetof(type, start.warmup), "COMMAND",                                              \
     "Run this in the machine, by the image's /bin/sh -c, and take the snapshot again when it has ended well"},        \
    {"workdir", 'w', OPTION_STRING, offsetof(type, start.cwd), "DIR", "Working directory; made when it is missing"},   \
    REGISTRY_OPTIONS_OF(type, start.registry)
/* clang-format on */

/* Look at what was given: files are read, values understood. 0, or EXIT_OURS after the sentence. */
int start_args_read(struct start_args *a);
void start_args_done(struct start_args *a);

/* Open the image, with progress. */
int start_args_open(const struct start_args *a, const char *ref, struct sm_image **ret);

/* The command: what is not about streams, terminal and time. `argv`: what stands behind IMAGE, may be empty. */
void start_args_command(struct start_args *a, char **argv, struct sm_exec_config *config);

/*
 * The machine and its bake. `command` may be NULL: the machine is for any. What all these point at lives as long as
 * `a`. 0, or EXIT_OURS after the sentence: a trigger that is none.
 */
int start_args_machine(struct start_args *a, const struct sm_exec_config *command, struct sm_vm_config *config,
                       struct sm_bake_config *bake);

/* What the manual says of triggers: pairs for struct command's notes. */
#define TRIGGER_NOTES                                                                                                  \
    "TRIGGERS",                                                                                                        \
        "An image is baked once: a machine with it is brought to a point from which it is worth starting, and saved. " \
        "The trigger says which point that is.\n\n"                                                                    \
        "pre-exec: all is set up, the command is about to be executed. Every start executes it afresh. The "           \
        "environment, the user, the terminal and the command itself may differ from start to start.\n\n"               \
        "listener: the command listens on a TCP port. Every start goes on from there. Also when the command has "      \
        "ended by itself, or when --after is over; with --require-listener that is an error.\n\n"                      \
        "parked: the command has ended, or --after is over.\n\n"                                                       \
        "heartbeat=N: the agent's counter, ten a second from the set-up on, has come to N.\n\n"                        \
        "after=MS: so many milliseconds after the command was started.\n\n"                                            \
        "docs/snapshots.md tells more."

#endif
