/* SPDX-License-Identifier: Apache-2.0 */
/* The store: objects appear whole, or not at all. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/io.h"
#include "oci/index.h"
#include "oci/store.h"
#include "oci_fixture.h"

static unsigned count_files(const char *dir, const char *sub)
{
    char path[512];
    DIR *d;
    unsigned n = 0;

    snprintf(path, sizeof(path), "%s/%s", dir, sub);
    d = opendir(path);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static void make_layer(struct oci_store *s, const struct digest *name, uint64_t data_size)
{
    struct store_temp t = STORE_TEMP_INIT;
    struct index_writer *w;
    int data_fd, index_fd;

    assert_int_equal(store_temp_new(&t, s, NULL), 0);
    data_fd = store_temp_file(&t, "data", NULL);
    index_fd = store_temp_file(&t, "index", NULL);
    assert_true(data_fd >= 0 && index_fd >= 0);
    assert_int_equal(ftruncate(data_fd, 4096), 0);
    assert_int_equal(index_writer_new(&w, index_fd, NULL), 0);
    assert_int_equal(index_finish(w, data_size, NULL), 0);
    index_writer_free(w);
    assert_int_equal(store_temp_commit(&t, STORE_LAYER, name, NULL), 0);
    store_temp_discard(&t);
    close(data_fd);
    close(index_fd);
}

static int open_layer(struct oci_store *s, const struct digest *name)
{
    int data_fd, index_fd;
    uint64_t size;
    int r = store_open_layer(s, name, &data_fd, &index_fd, &size, NULL);

    if (r >= 0) {
        assert_int_equal(size, 4096);
        close(data_fd);
        close(index_fd);
    }
    return r;
}

static void test_objects(void **state)
{
    char *dir = temp_dir(), path[512];
    struct digest a = digest_of_buf("a", 1), b = digest_of_buf("b", 1);
    char hex[DIGEST_HEX_SIZE];
    struct oci_store *s;
    struct store_temp t = STORE_TEMP_INIT;
    int fd;

    snprintf(path, sizeof(path), "%s/not/yet/there", dir);
    assert_int_equal(oci_store_open(&s, path, NULL), 0);
    assert_string_equal(oci_store_path(s), path);
    assert_int_equal(open_layer(s, &a), -ENOENT);
    make_layer(s, &a, 4096);
    assert_int_equal(open_layer(s, &a), 0);
    assert_int_equal(open_layer(s, &b), -ENOENT);
    make_layer(s, &a, 4096); /* again: takes the other's place */
    assert_int_equal(open_layer(s, &a), 0);
    make_layer(s, &b, 8192); /* says another size than the file has: damaged */
    assert_int_equal(open_layer(s, &b), -ENOENT);
    make_layer(s, &b, 4096);
    assert_int_equal(open_layer(s, &b), 0);

    digest_hex(&b, hex);
    snprintf(path + strlen(path), sizeof(path) - strlen(path), "/layers/%s/index", hex);
    assert_int_equal(truncate(path, 10), 0);
    assert_int_equal(open_layer(s, &b), -ENOENT);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("/dev/zero", path), 0);
    assert_true(open_layer(s, &b) < 0);

    assert_int_equal(store_temp_new(&t, s, NULL), 0);
    fd = store_temp_file(&t, "data", NULL);
    assert_true(fd >= 0);
    close(fd);
    store_temp_discard(&t);
    store_temp_discard(&t);
    assert_int_equal(count_files(oci_store_path(s), "tmp"), 0);
    assert_int_equal(count_files(oci_store_path(s), "layers"), 2);
    oci_store_free(s);
    oci_store_free(NULL);
    temp_dir_remove(dir);
}

static void test_sweep(void **state)
{
    char *dir = temp_dir();
    struct store_temp mine = STORE_TEMP_INIT;
    struct oci_store *s, *other;
    int fd, status;
    pid_t pid;

    assert_int_equal(oci_store_open(&s, dir, NULL), 0);
    pid = fork();
    if (!pid) {
        struct store_temp t = STORE_TEMP_INIT;

        if (store_temp_new(&t, s, NULL) < 0 || store_temp_file(&t, "data", NULL) < 0 ||
            store_temp_file(&t, "index", NULL) < 0)
            _exit(1);
        raise(SIGKILL);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(count_files(dir, "tmp"), 1);
    assert_int_equal(store_temp_new(&mine, s, NULL), 0);
    assert_int_equal(oci_store_open(&other, dir, NULL), 0);
    assert_int_equal(count_files(dir, "tmp"), 1); /* the dead one's is gone, ours is not */
    fd = store_temp_file(&mine, "data", NULL);
    assert_true(fd >= 0);
    close(fd);
    store_temp_discard(&mine);
    oci_store_free(other);
    oci_store_free(s);
    temp_dir_remove(dir);
}

static void test_lock(void **state)
{
    char *dir = temp_dir(), c;
    struct digest a = digest_of_buf("a", 1), b = digest_of_buf("b", 1);
    struct oci_store *s;
    int fd, other, to[2], status;
    pid_t pid;

    assert_int_equal(oci_store_open(&s, dir, NULL), 0);
    assert_int_equal(pipe(to), 0);
    fd = store_lock_told(s, STORE_LAYER, &a, NULL, NULL, NULL);
    other = store_lock_told(s, STORE_LAYER, &b, NULL, NULL,
                            NULL); /* another name is another lock, and so is another kind */
    assert_true(fd >= 0 && other >= 0);
    close(other);
    other = store_lock_told(s, STORE_IMAGE, &a, NULL, NULL, NULL);
    assert_true(other >= 0);
    pid = fork();
    if (!pid) {
        close(fd); /* the lock is the parent's as long as that holds it open */
        if (store_lock_told(s, STORE_LAYER, &a, NULL, NULL, NULL) < 0)
            _exit(1);
        _exit(write(to[1], "x", 1) != 1);
    }
    close(to[1]);
    assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
    assert_int_equal(fcntl(to[0], F_SETFL, O_NONBLOCK), 0);
    assert_int_equal(read(to[0], &c, 1), -1);
    close(fd);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(read(to[0], &c, 1), 1);
    close(to[0]);
    close(other);
    oci_store_free(s);
    temp_dir_remove(dir);
}

static void test_places(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    char *dir = temp_dir(), want[512];
    struct oci_store *s;

    setenv("HOME", dir, 1);
    unsetenv("XDG_DATA_HOME");
    unsetenv("SUPERMACHINE_HOME");
    assert_int_equal(oci_store_open(&s, NULL, &err), 0);
    snprintf(want, sizeof(want), "%s/.local/share/supermachine", dir);
    assert_string_equal(oci_store_path(s), want);
    oci_store_free(s);
    snprintf(want, sizeof(want), "%s/data", dir);
    setenv("XDG_DATA_HOME", want, 1);
    assert_int_equal(oci_store_open(&s, NULL, &err), 0);
    snprintf(want, sizeof(want), "%s/data/supermachine", dir);
    assert_string_equal(oci_store_path(s), want);
    oci_store_free(s);
    snprintf(want, sizeof(want), "%s/own", dir);
    setenv("SUPERMACHINE_HOME", want, 1);
    assert_int_equal(oci_store_open(&s, NULL, &err), 0);
    assert_string_equal(oci_store_path(s), want);
    oci_store_free(s);
    unsetenv("SUPERMACHINE_HOME");
    unsetenv("XDG_DATA_HOME");
    unsetenv("HOME");
    assert_int_equal(oci_store_open(&s, NULL, &err), -ENOENT);
    assert_non_null(strstr(err.text, "SUPERMACHINE_HOME"));
    write_file(dir, "file", "x", 1);
    snprintf(want, sizeof(want), "%s/file/store", dir);
    assert_int_equal(oci_store_open(&s, want, &err), -ENOTDIR);
    assert_non_null(strstr(err.text, "file"));
    temp_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_objects),
        cmocka_unit_test(test_sweep),
        cmocka_unit_test(test_lock),
        cmocka_unit_test(test_places),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
