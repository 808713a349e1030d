/* SPDX-License-Identifier: Apache-2.0 */
/* `supermachine setup`: everything that the first run would otherwise wait for. */
#include <stdio.h>

#include "cli/command.h"
#include "cli/json.h"
#include "cli/record.h"
#include "cli/steps.h"

struct setup_options {
    bool json, quiet, verbose;
    const char *kernel;
    uint32_t memory_mib, cpus, start_timeout_ms;
};

#define AT(field) offsetof(struct setup_options, field)

static const struct option_def setup_table[] = {
    {"cpus", 0, OPTION_COUNT, AT(cpus), "N", "For machines of so many processors, 1 to 16 (default 1)"},
    {"json", 0, OPTION_FLAG, AT(json), NULL, "Print what was made as one JSON object"},
    {"kernel", 0, OPTION_STRING, AT(kernel), "FILE", "Boot this guest kernel, an ELF vmlinux"},
    {"memory", 'm', OPTION_MEMORY, AT(memory_mib), "SIZE",
     "For machines of so much memory, as in 512m or 2g; a number alone is MiB (default 256m)"},
    {"quiet", 'q', OPTION_FLAG, AT(quiet), NULL, "Show no progress"},
    {"start-timeout", 0, OPTION_DURATION, AT(start_timeout_ms), "TIME",
     "Give up when the guest has not come up after this time (default 60s)"},
    {"verbose", 'v', OPTION_FLAG, AT(verbose), NULL, "Tell on standard error what is done"},
    {0},
};

/* What stands in the way of any machine at all, by doctor's words. */
static int check_host(const struct setup_options *o)
{
    struct sm_doctor_options options = SM_DOCTOR_OPTIONS_INIT;
    struct sm_error err = SM_ERROR_INIT;
    const struct sm_check *checks;
    struct sm_doctor *d;
    int code = 0;

    options.kernel = o->kernel;
    if (sm_doctor_run(&d, &options, &err) < 0)
        return complain("%s", err.text);
    for (unsigned i = 0, n = sm_doctor_checks(d, &checks); i < n && code == 0; i++)
        if (checks[i].status == SM_CHECK_FAILED)
            code = complain("this host can't run machines yet: %s ('supermachine doctor' tells more)", checks[i].text);
    sm_doctor_free(d);
    return code;
}

static int make(const struct setup_options *o, struct sm_bake_result *result)
{
    struct sm_vm_config config = SM_VM_CONFIG_INIT;
    struct sm_error err = SM_ERROR_INIT;
    struct sm_store *store;
    struct steps steps;
    int r, code = store_open(&store);

    if (code)
        return code;
    config.memory_mib = o->memory_mib;
    config.vcpus = o->cpus;
    config.kernel = o->kernel;
    config.start_timeout_ms = o->start_timeout_ms;
    steps_begin(&steps, o->quiet, o->verbose, "setup", &config);
    r = sm_base_bake(store, &config, result, &err);
    steps_end(&steps);
    sm_store_free(store);
    return r < 0 ? complain("%s", err.text) : 0;
}

static void print_result(const struct setup_options *o, const struct sm_bake_result *r)
{
    uint32_t mib = o->memory_mib ? o->memory_mib : SM_VM_MEMORY_MIB_DEFAULT, cpus = o->cpus ? o->cpus : 1;

    if (o->json) {
        fputs("{\"key\":", stdout);
        json_string(stdout, r->key);
        printf(",\"memory_mib\":%u,\"cpus\":%u,\"baked\":%s,\"duration_ms\":%.3f}\n", mib, cpus,
               r->baked ? "true" : "false", (double)r->duration_ns / 1e6);
        return;
    }
    printf("The base snapshot for %u MiB and %u %s ", mib, cpus, cpus == 1 ? "processor" : "processors");
    if (r->baked)
        printf("was made in %.2f s.\n", (double)r->duration_ns / 1e9);
    else
        puts("is there.");
    puts("This host can run machines.");
}

static int run_setup(int argc, char **argv)
{
    struct sm_bake_result result = {.size = sizeof(result)};
    struct setup_options o = {0};
    int first, code;

    if (!command_options(&command_setup, argc, argv, &o, &first, &code))
        return code;
    if (first < argc)
        return complain("setup: '%s' is one word too many", argv[first]);
    code = check_host(&o);
    if (code == 0)
        code = make(&o, &result);
    if (code == 0)
        print_result(&o, &result);
    return code;
}

const struct command command_setup = {
    .name = "setup",
    .operands = "",
    .summary = "make this host ready for a first run",
    .about = "Checks that this host can run machines, and makes the base snapshot: kernel and agent, booted and saved. "
             "Baking an image begins with restoring it. There is one for each memory size and number of processors; a "
             "run that does not find its own makes it, so that this command only saves the first one the time.",
    .options = setup_table,
    .run = run_setup,
};
