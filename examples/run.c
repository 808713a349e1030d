/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a command in a machine made from an OCI image, and says how it went. The whole use of the library in one page.
 *
 *     cc run.c $(pkg-config --cflags --libs supermachine) -o run
 *     ./run oci:./debian cat /etc/os-release
 */
#include <stdio.h>

#include <supermachine/supermachine.h>

int main(int argc, char **argv)
{
    struct sm_error err = SM_ERROR_INIT;
    struct sm_image *image = NULL;
    struct sm_vm *vm = NULL;
    struct sm_exec *exec = NULL;
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    struct sm_exec_result result = {.size = sizeof(result)};
    int code = 125;

    if (argc < 2) {
        fprintf(stderr, "usage: %s IMAGE [COMMAND [ARG...]]\n", argv[0]);
        return code;
    }
    if (argc > 2)
        config.cmd = (const char *const *)argv + 2;
    config.in = 0;
    config.out = 1;
    config.err = 2;

    /* NULL instead of a configuration: the usual. */
    if (sm_image_open(&image, argv[1], NULL, &err) == 0 && sm_vm_start(&vm, image, NULL, &err) == 0 &&
        sm_exec_start(&exec, vm, &config, &err) == 0 && sm_exec_wait(exec, &result, &err) == 0) {
        code = result.exit_code;
        fprintf(stderr, "exit code %d after %.3f s%s%s\n", code, (double)result.duration_ns / 1e9,
                result.message[0] ? ": " : "", result.message);
    } else {
        fprintf(stderr, "%s\n", err.text);
    }
    /* Each takes NULL. */
    sm_exec_free(exec);
    sm_vm_free(vm);
    sm_image_free(image);
    return code;
}
