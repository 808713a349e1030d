/* SPDX-License-Identifier: Apache-2.0 */
/* `supermachine doctor`: what this host can do. */
#include <stdio.h>

#include "cli/command.h"
#include "cli/json.h"

struct doctor_options {
    bool json;
    const char *kernel;
};

static const struct option_def doctor_table[] = {
    {"json", 0, OPTION_FLAG, offsetof(struct doctor_options, json), NULL, "Print JSON"},
    {"kernel", 0, OPTION_STRING, offsetof(struct doctor_options, kernel), "FILE", "Examine this guest kernel"},
    {0},
};

static const char *const words[] = {[SM_CHECK_OK] = "ok", [SM_CHECK_NOTE] = "note", [SM_CHECK_FAILED] = "failed"};

static void print_text(const struct sm_doctor *d)
{
    const struct sm_check *checks;
    unsigned n = sm_doctor_checks(d, &checks);

    printf("supermachine %s\n", sm_version());
    for (unsigned i = 0; i < n; i++)
        printf("%-6s  %-16s %s\n", words[checks[i].status], checks[i].name, checks[i].text);
    puts(sm_doctor_status(d) == SM_CHECK_FAILED ? "This host can't run machines until what failed is mended."
                                                : "This host can run machines.");
}

static void print_json(const struct sm_doctor *d)
{
    const struct sm_check *checks;
    unsigned n = sm_doctor_checks(d, &checks);

    fputs("{\"version\":", stdout);
    json_string(stdout, sm_version());
    printf(",\"usable\":%s,\"checks\":[", sm_doctor_status(d) == SM_CHECK_FAILED ? "false" : "true");
    for (unsigned i = 0; i < n; i++) {
        printf("%s{\"name\":", i ? "," : "");
        json_string(stdout, checks[i].name);
        printf(",\"status\":\"%s\",\"text\":", words[checks[i].status]);
        json_string(stdout, checks[i].text);
        putchar('}');
    }
    puts("]}");
}

static int run_doctor(int argc, char **argv)
{
    struct doctor_options o = {0};
    struct sm_doctor_options options = SM_DOCTOR_OPTIONS_INIT;
    struct sm_error err = SM_ERROR_INIT;
    struct sm_doctor *d;
    int first, code;

    if (!command_options(&command_doctor, argc, argv, &o, &first, &code))
        return code;
    options.kernel = o.kernel;
    if (sm_doctor_run(&d, &options, &err) < 0)
        return complain("%s", err.text);
    o.json ? print_json(d) : print_text(d);
    code = sm_doctor_status(d) == SM_CHECK_FAILED ? 1 : 0;
    sm_doctor_free(d);
    return code;
}

const struct command command_doctor = {
    .name = "doctor",
    .operands = "",
    .summary = "say what this host can do",
    .about =
        "Examines this host and says, a sentence each, whether it can run machines and what to do where it can't: "
        "KVM, its kind and permissions, whether it can really run Linux (by a tiny guest), the worker, the guest's "
        "kernel and agent, the image store, and what workers can be shut into.\n\nExits with 1 when something "
        "must be mended before machines can run.",
    .options = doctor_table,
    .run = run_doctor,
};
