/* SPDX-License-Identifier: Apache-2.0 */
/* A file that is cut short under guest memory: last words, and no others for other faults. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/sigbus.h"

#define BYTES (16 * 4096)

static uint8_t *map;

static bool is_guest(const void *ctx, const void *addr)
{
    return (const uint8_t *)addr >= map && (const uint8_t *)addr < map + BYTES / 2;
}

static bool is_not(const void *ctx, const void *addr)
{
    return false;
}

static const char complaint[] = "cut short\n";
static const char frame[] = "last words";

/* What a child does that touches `page` after the cut: its wait status, and what came from its socket and stderr. */
static int touch(unsigned page, bool guest, int sock, char *said, size_t size)
{
    const struct sigbus_words words = {.is_guest = guest ? is_guest : is_not,
                                       .sock = sock,
                                       .frame = frame,
                                       .len = sizeof(frame),
                                       .complaint = complaint};
    int pv[2], status;

    assert_int_equal(pipe(pv), 0);
    pid_t pid = fork();
    if (pid == 0) {
        const struct rlimit none = {0, 0};
        int fd = memfd_create("memory", MFD_CLOEXEC);

        setrlimit(RLIMIT_CORE, &none);
        dup2(pv[1], STDERR_FILENO);
        if (ftruncate(fd, BYTES) < 0)
            _exit(90);
        map = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED || sigbus_guard(&words, NULL) < 0 || ftruncate(fd, 4096) < 0)
            _exit(91);
        *(volatile uint8_t *)(map + (size_t)page * 4096) = 1;
        _exit(42);
    }
    close(pv[1]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    ssize_t n = read(pv[0], said, size - 1);
    said[n > 0 ? n : 0] = '\0';
    close(pv[0]);
    return status;
}

static void last_words_are_sent(void **state)
{
    char said[256], got[64];
    int sv[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, sv), 0);
    assert_int_equal(touch(0, true, sv[0], said, sizeof(said)), 42 << 8); /* what the file still has */
    assert_int_equal(recv(sv[1], got, sizeof(got), 0), -1);
    assert_int_equal(touch(1, true, sv[0], said, sizeof(said)), 0);
    assert_string_equal(said, "");
    assert_int_equal(recv(sv[1], got, sizeof(got), 0), sizeof(frame));
    assert_string_equal(got, frame);
    close(sv[0]);
    close(sv[1]);
}

static void a_socket_that_takes_nothing_leaves_a_complaint(void **state)
{
    char said[256];
    int sv[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, sv), 0);
    while (send(sv[0], frame, sizeof(frame), 0) > 0)
        ;
    assert_int_equal(touch(7, true, sv[0], said, sizeof(said)), 1 << 8);
    assert_string_equal(said, complaint);
    close(sv[0]);
    close(sv[1]);
}

static void other_faults_keep_their_meaning(void **state)
{
    char said[256], got[64];
    int sv[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, sv), 0);
    const struct {
        unsigned page;
        bool guest;
    } cases[] = {{9, true}, {1, false}};
    for (int i = 0; i < 2; i++) {
        int status = touch(cases[i].page, cases[i].guest, sv[0], said, sizeof(said));

        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
        assert_int_equal(recv(sv[1], got, sizeof(got), 0), -1);
    }
    assert_int_equal(sigbus_guard(NULL, NULL), 0);
    close(sv[0]);
    close(sv[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(last_words_are_sent),
        cmocka_unit_test(a_socket_that_takes_nothing_leaves_a_complaint),
        cmocka_unit_test(other_faults_keep_their_meaning),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
