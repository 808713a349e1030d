/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this host can do: a list of checks, each a sentence. They go from the host upwards, and each is made whatever
 * the ones before it found, so that one look shows everything that is to be mended.
 *
 * The KVM self-test is the worker's (a tiny guest shows whether this KVM can run Linux: some emulate ring 0 with
 * holes); here it is asked for as for a machine, with a kernel that is never looked at when there is none.
 * The sandbox checks only look; what took effect is told by sm_vm_stats() of a running machine.
 */
#include <assert.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "lib/find.h"
#include "lib/options.h"
#include "lib/worker.h"
#include "oci/http.h"
#include "oci/image.h"

#define DOCTOR_MAX_CHECKS 16
#define DOCTOR_TEXT_MAX   2400
#define DOCTOR_LOW_DISK   (1 * GIB)

struct sm_doctor {
    struct sm_doctor_options options; /* its strings are the caller's, used during sm_doctor_run() only */
    unsigned n;
    struct sm_check checks[DOCTOR_MAX_CHECKS];
    char text[DOCTOR_MAX_CHECKS][DOCTOR_TEXT_MAX];
};

__attribute__((format(printf, 4, 5))) static void add(struct sm_doctor *d, const char *name,
                                                      enum sm_check_status status, const char *fmt, ...)
{
    va_list ap;

    assert(d->n < DOCTOR_MAX_CHECKS);
    va_start(ap, fmt);
    vsnprintf(d->text[d->n], DOCTOR_TEXT_MAX, fmt, ap);
    va_end(ap);
    d->checks[d->n] = (struct sm_check){.name = name, .status = status, .text = d->text[d->n]};
    d->n++;
}

/* ---- Host and KVM ---- */

static void check_host(struct sm_doctor *d)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN), pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    struct utsname un;

    uname(&un);
    add(d, "host", SM_CHECK_OK, "%s %s on %s, %ld processor%s, %llu MiB of memory", un.sysname, un.release, un.machine,
        cpus, cpus == 1 ? "" : "s", (unsigned long long)pages * (unsigned long long)page / MIB);
}

/* Is `word` among the flags of the first processor? */
static bool cpu_flag(const char *word)
{
    CLEANUP_FREE char *line = NULL;
    FILE *f = fopen("/proc/cpuinfo", "re");
    size_t cap = 0, n = strlen(word);
    bool found = false;

    while (f && getline(&line, &cap, f) > 0) {
        if (strncmp(line, "flags", 5) != 0)
            continue;
        for (const char *p = strstr(line, word); p && !found; p = strstr(p + 1, word))
            found = p[-1] == ' ' && (p[n] == ' ' || p[n] == '\n');
        break;
    }
    if (f)
        fclose(f);
    return found;
}

static const char *kvm_kind(void)
{
    static const struct {
        const char *path, *kind;
    } modules[] = {
        {"/sys/module/kvm_intel", "Intel VT-x"},
        {"/sys/module/kvm_amd", "AMD-V"},
        {"/sys/module/kvm_pvm", "paravirtual (kvm_pvm), without the processor's help"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(modules); i++)
        if (access(modules[i].path, F_OK) == 0)
            return modules[i].kind;
    if (cpu_flag("vmx"))
        return "Intel VT-x";
    if (cpu_flag("svm"))
        return "AMD-V";
    return "of an unknown kind (the processor shows neither VT-x nor AMD-V)";
}

static int check_kvm(struct sm_doctor *d)
{
    struct sm_error err = SM_ERROR_INIT;
    int fd = find_kvm(&err);

    if (fd < 0)
        add(d, "kvm", SM_CHECK_FAILED, "%s", err.text);
    else
        add(d, "kvm", SM_CHECK_OK, "/dev/kvm can be used: %s%s", kvm_kind(),
            cpu_flag("hypervisor") ? ", nested in a virtual machine" : "");
    return fd;
}

static void no_event(void *ctx, uint32_t kind, uint64_t arg)
{
    (void)ctx;
    (void)kind;
    (void)arg;
}

static void no_console(void *ctx, const char *data, size_t len)
{
    (void)ctx;
    (void)data;
    (void)len;
}

static void no_end(void *ctx)
{
    (void)ctx;
}

static int ask_worker(struct loop *loop, const char *path, int kvm, struct sm_error *err)
{
    static const struct worker_ops ops = {.lifecycle = no_event, .console = no_console, .ended = no_end};
    struct control_request req = {.type = CONTROL_CONFIG,
                                  .config = {.memory_mib = CONTROL_MIN_MEMORY_MIB,
                                             .vcpus = 1,
                                             .guest_cid = CONTROL_MIN_CID,
                                             .flags = CONTROL_CONFIG_SELF_TEST}};
    CLEANUP_FD int kernel = open("/dev/null", O_RDONLY | O_CLOEXEC);
    struct worker *w = NULL;
    uint32_t id = 0;
    int r;

    if (kernel < 0)
        return sm_error_sys(err, errno, "cannot open /dev/null");
    r = worker_spawn(&w, loop, path, &ops, NULL, err);
    if (r == 0)
        r = worker_send(w, &req, (int[]){kvm, kernel}, 2, false, &id, err);
    if (r == 0)
        r = worker_await(w, id, CONTROL_OK, NULL, err);
    worker_free(w);
    return r;
}

static void check_self_test(struct sm_doctor *d, int kvm, const char *worker)
{
    struct sm_error err = SM_ERROR_INIT;
    struct loop *loop = NULL;
    uint64_t from = io_now_ns();
    int r;

    if (kvm < 0 || !worker) {
        add(d, "self-test", SM_CHECK_FAILED, "not run: it needs /dev/kvm and the worker");
        return;
    }
    r = loop_new(&loop);
    if (r < 0)
        sm_error_sys(&err, -r, "cannot run the self-test");
    else
        r = ask_worker(loop, worker, kvm, &err);
    loop_free(loop);
    if (r < 0)
        add(d, "self-test", SM_CHECK_FAILED, "%s", err.text);
    else
        add(d, "self-test", SM_CHECK_OK, "a tiny guest ran as it should: this KVM can run Linux (%.1f ms)",
            (double)(io_now_ns() - from) / 1e6);
}

/* ---- Files ---- */

static bool check_worker(struct sm_doctor *d, char path[PATH_MAX])
{
    struct sm_error err = SM_ERROR_INIT;

    if (find_file(FIND_WORKER, d->options.worker, path, &err) < 0) {
        add(d, "worker", SM_CHECK_FAILED, "%s", err.text);
        return false;
    }
    if (access(path, X_OK) < 0) {
        add(d, "worker", SM_CHECK_FAILED, "the worker '%s' can't be executed", path);
        return false;
    }
    add(d, "worker", SM_CHECK_OK, "%s", path);
    return true;
}

static void check_kernel(struct sm_doctor *d)
{
    struct sm_error err = SM_ERROR_INIT;
    char path[PATH_MAX];
    CLEANUP_FD int fd = find_open(FIND_KERNEL, d->options.kernel, path, &err);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0) {
        add(d, "kernel", SM_CHECK_FAILED, "%s", err.text);
        return;
    }
#if defined(__x86_64__)
    Elf64_Ehdr h;

    if (io_read_full(fd, &h, sizeof(h)) != (ssize_t)sizeof(h) || memcmp(h.e_ident, ELFMAG, SELFMAG) != 0) {
        add(d, "kernel", SM_CHECK_FAILED, "'%s' is not a kernel: an uncompressed ELF file (vmlinux) is needed", path);
        return;
    }
    if (h.e_ident[EI_CLASS] != ELFCLASS64 || h.e_machine != EM_X86_64) {
        add(d, "kernel", SM_CHECK_FAILED, "the kernel '%s' is for another architecture, not x86-64", path);
        return;
    }
#endif
    add(d, "kernel", SM_CHECK_OK, "%s (%.1f MiB)", path, (double)st.st_size / (double)MIB);
}

static void check_initramfs(struct sm_doctor *d)
{
    struct sm_error err = SM_ERROR_INIT;
    char path[PATH_MAX];
    CLEANUP_FD int fd = find_open(FIND_INITRAMFS, d->options.initramfs, path, &err);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        add(d, "agent", SM_CHECK_FAILED, "%s", err.text);
    else
        add(d, "agent", SM_CHECK_OK, "%s (%.1f KiB)", path, (double)st.st_size / 1024);
}

static void check_store(struct sm_doctor *d)
{
    struct sm_error err = SM_ERROR_INIT;
    struct oci_store *store = NULL;
    struct statvfs fs;
    const char *path;

    if (oci_store_open(&store, d->options.store, &err) < 0) {
        add(d, "store", SM_CHECK_FAILED, "%s", err.text);
        return;
    }
    path = oci_store_path(store);
    if (access(path, W_OK) < 0)
        add(d, "store", SM_CHECK_FAILED, "the image store '%s' can't be written: %s (SUPERMACHINE_HOME names another)",
            path, strerror(errno));
    else if (statvfs(path, &fs) == 0 && fs.f_bavail * fs.f_frsize < DOCTOR_LOW_DISK)
        add(d, "store", SM_CHECK_NOTE, "the image store '%s' has little room left: %llu MiB", path,
            (unsigned long long)(fs.f_bavail * fs.f_frsize / MIB));
    else
        add(d, "store", SM_CHECK_OK, "images are kept in %s", path);
    oci_store_free(store);
}

/* Images from elsewhere run without it. */
static void check_registries(struct sm_doctor *d)
{
    const struct http_options options = {0};
    struct sm_error err = SM_ERROR_INIT;
    struct http *http;

    if (http_new(&http, &options, &err) < 0) {
        add(d, "registries", SM_CHECK_NOTE, "%s", err.text);
        return;
    }
    http_free(http);
    add(d, "registries", SM_CHECK_OK, "images can be fetched from registries: libcurl is there");
}

/* ---- Sandbox ---- */

/* The number in a file of /proc/sys, or `missing`. */
static long sysctl_number(const char *path, long missing)
{
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    char text[32];
    ssize_t n = fd < 0 ? -1 : io_read_full(fd, text, sizeof(text) - 1);

    if (n <= 0)
        return missing;
    text[n] = '\0';
    return strtol(text, NULL, 10);
}

static void check_userns(struct sm_doctor *d)
{
    bool root = geteuid() == 0;

    if (sysctl_number("/proc/sys/user/max_user_namespaces", 0) <= 0)
        add(d, "user-namespaces", SM_CHECK_NOTE,
            "user namespaces are switched off (user.max_user_namespaces): workers keep to seccomp and Landlock");
    else if (!root && (sysctl_number("/proc/sys/kernel/unprivileged_userns_clone", 1) == 0 ||
                       sysctl_number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", 0) == 1))
        add(d, "user-namespaces", SM_CHECK_NOTE,
            "this host gives user namespaces to root only: workers keep to seccomp and Landlock");
    else
        add(d, "user-namespaces", SM_CHECK_OK, "workers get namespaces of their own");
}

static void check_landlock(struct sm_doctor *d)
{
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

    if (abi > 0)
        add(d, "landlock", SM_CHECK_OK, "Landlock (version %ld) shuts workers off from the file system", abi);
    else
        add(d, "landlock", SM_CHECK_NOTE, "this host's kernel has no Landlock: workers do without");
}

static void check_seccomp(struct sm_doctor *d)
{
    if (prctl(PR_GET_SECCOMP) >= 0)
        add(d, "seccomp", SM_CHECK_OK, "workers are held to the system calls they need");
    else
        add(d, "seccomp", SM_CHECK_FAILED, "this host's kernel has no seccomp, without which no worker runs");
}

/* ---- The report ---- */

int sm_doctor_run(struct sm_doctor **ret, const struct sm_doctor_options *given, struct sm_error *err)
{
    struct sm_doctor *d = calloc(1, sizeof(*d));
    char worker[PATH_MAX];
    bool have_worker;
    int r, kvm;

    if (!d)
        return sm_error_sys(err, ENOMEM, "cannot examine this host");
    r = OPTIONS_COPY(&d->options, given, err);
    if (r < 0) {
        free(d);
        return r;
    }
    check_host(d);
    kvm = check_kvm(d);
    have_worker = check_worker(d, worker);
    check_self_test(d, kvm, have_worker ? worker : NULL);
    close_fd(&kvm);
    check_kernel(d);
    check_initramfs(d);
    check_store(d);
    check_registries(d);
    check_userns(d);
    check_landlock(d);
    check_seccomp(d);
    d->options = (struct sm_doctor_options){0};
    *ret = d;
    return 0;
}

unsigned sm_doctor_checks(const struct sm_doctor *doctor, const struct sm_check **ret)
{
    *ret = doctor->checks;
    return doctor->n;
}

enum sm_check_status sm_doctor_status(const struct sm_doctor *doctor)
{
    enum sm_check_status worst = SM_CHECK_OK;

    for (unsigned i = 0; i < doctor->n; i++)
        if (doctor->checks[i].status > worst)
            worst = doctor->checks[i].status;
    return worst;
}

void sm_doctor_free(struct sm_doctor *doctor)
{
    free(doctor);
}
