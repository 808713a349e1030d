/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long a command in a machine that runs takes, as who uses the library sees it: sm_exec_start() to the result of
 * sm_exec_wait(). For restore.py.
 *
 *     roundtrip IMAGE ROUNDS COMMAND [ARG...]
 *
 * prints the nanoseconds of each round, one a line, but for a first one, which is not told.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <supermachine/supermachine.h>

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int round_trip(struct sm_vm *vm, const struct sm_exec_config *config, uint64_t *ret_ns, struct sm_error *err)
{
    struct sm_exec_result result = {.size = sizeof(result)};
    struct sm_exec *exec = NULL;
    uint64_t start = now_ns();
    int r = sm_exec_start(&exec, vm, config, err);

    if (r == 0)
        r = sm_exec_wait(exec, &result, err);
    *ret_ns = now_ns() - start;
    if (r == 0 && result.exit_code != 0) {
        fprintf(stderr, "roundtrip: the command ended with %d %s\n", result.exit_code, result.message);
        r = -1;
    } else if (r < 0) {
        fprintf(stderr, "roundtrip: %s\n", err->text);
    }
    sm_exec_free(exec);
    return r;
}

static int all_rounds(struct sm_vm *vm, unsigned long rounds, const struct sm_exec_config *config, struct sm_error *err)
{
    uint64_t ns;
    int r = round_trip(vm, config, &ns, err);

    for (; r == 0 && rounds > 0; rounds--) {
        r = round_trip(vm, config, &ns, err);
        if (r == 0)
            printf("%" PRIu64 "\n", ns);
    }
    return r;
}

int main(int argc, char **argv)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    struct sm_error err = SM_ERROR_INIT;
    struct sm_image *image = NULL;
    struct sm_vm *vm = NULL;
    int r = 1;

    if (argc < 4) {
        fprintf(stderr, "usage: %s IMAGE ROUNDS COMMAND [ARG...]\n", argv[0]);
        return 2;
    }
    config.args = (const char *const *)argv + 3;
    if (sm_image_open(&image, argv[1], NULL, &err) < 0 || sm_vm_start(&vm, image, NULL, &err) < 0)
        fprintf(stderr, "roundtrip: %s\n", err.text);
    else
        r = all_rounds(vm, strtoul(argv[2], NULL, 10), &config, &err) < 0;
    sm_vm_free(vm);
    sm_image_free(image);
    return r;
}
