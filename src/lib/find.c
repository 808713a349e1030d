/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the parts are: see find.h.
 *
 * The library asks where it was loaded from itself: the shared object, or the program that it is linked into. When that
 * directory ends in src/lib or src/cli it is a build tree: the worker is in BUILD/src/vmm, the guest's files in
 * BUILD/guest or, since the kernel is built once for all build directories, ../guest. Else it is an installed one:
 * PREFIX/lib*, PREFIX/bin -> PREFIX/libexec/supermachine. What the build was configured with comes last.
 */
#include "lib/find.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"

#if defined(__x86_64__)
#define GUEST_ARCH "x86_64"
#elif defined(__aarch64__)
#define GUEST_ARCH "arm64"
#else
#error "no guest kernel for this architecture"
#endif

/* What each is called, in sentences and in directories. */
static const struct {
    const char *noun, *variable, *option, *built, *built_above, *installed_dir, *installed, *remedy;
} files[] = {
    [FIND_WORKER] = {"the worker", "SUPERMACHINE_VMM", "", "/vmm/supermachine-vmm", NULL, SM_LIBEXECDIR,
                     "/libexec/supermachine/supermachine-vmm", "install supermachine completely"},
    [FIND_KERNEL] = {"a guest kernel", "SUPERMACHINE_KERNEL", "--kernel FILE or ", "/../guest/vmlinux-" GUEST_ARCH,
                     "/../../guest/vmlinux-" GUEST_ARCH, SM_DATADIR, "/share/supermachine/vmlinux-" GUEST_ARCH,
                     "build one with 'make kernel'"},
    [FIND_INITRAMFS] = {"the guest agent", "SUPERMACHINE_INITRAMFS", "", "/../guest/initramfs.cpio",
                        "/../../guest/initramfs.cpio", SM_DATADIR, "/share/supermachine/initramfs.cpio",
                        "build it with 'make guest'"},
};

/* The directory of the object that this code is in; its symbolic links resolved. */
static bool own_directory(char dir[PATH_MAX])
{
    Dl_info info;
    char *slash;

    /* For the program itself dladdr has only argv[0]. */
    bool shared =
        dladdr(__extension__(const void *) & own_directory, &info) && info.dli_fname && strstr(info.dli_fname, ".so");
    if (!realpath(shared ? info.dli_fname : "/proc/self/exe", dir))
        return false;
    slash = strrchr(dir, '/');
    if (!slash)
        return false;
    *slash = '\0';
    return true;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);

    return n >= k && strcmp(s + n - k, end) == 0;
}

/* `dir` without its last component; false at the root. */
static bool up(char *dir)
{
    char *slash = strrchr(dir, '/');

    if (!slash)
        return false;
    *slash = '\0';
    return true;
}

static bool try_path(char path[PATH_MAX], const char *dir, const char *rest)
{
    return snprintf(path, PATH_MAX, "%s%s", dir, rest) < PATH_MAX && access(path, F_OK) == 0;
}

static bool search(enum find_what what, char path[PATH_MAX])
{
    char dir[PATH_MAX];

    if (own_directory(dir)) {
        bool built = ends_with(dir, "/src/lib") || ends_with(dir, "/src/cli");

        if (up(dir) && built &&
            (try_path(path, dir, files[what].built) ||
             (files[what].built_above && try_path(path, dir, files[what].built_above))))
            return true;
        /* PREFIX/bin, PREFIX/lib; Debian has PREFIX/lib/TRIPLET. */
        if (!built &&
            (try_path(path, dir, files[what].installed) || (up(dir) && try_path(path, dir, files[what].installed))))
            return true;
    }
    return try_path(path, files[what].installed_dir, strrchr(files[what].installed, '/'));
}

int find_file(enum find_what what, const char *given, char ret_path[PATH_MAX], struct sm_error *err)
{
    const char *chosen = given ? given : secure_getenv(files[what].variable);

    if (chosen && chosen[0]) {
        if (snprintf(ret_path, PATH_MAX, "%s", chosen) >= PATH_MAX)
            return sm_error_set(err, ENAMETOOLONG, "the path of %s is too long", files[what].noun);
        if (access(ret_path, F_OK) < 0)
            return sm_error_sys(err, errno, "no %s at '%s'%s%s", strchr(files[what].noun, ' ') + 1, ret_path,
                                given ? "" : ", named by $", given ? "" : files[what].variable);
        return 0;
    }
    if (search(what, ret_path))
        return 0;
    return sm_error_set(
        err, ENOENT, "cannot find %s: it is neither beside this program nor in %s; %s, or name it with %s$%s",
        files[what].noun, files[what].installed_dir, files[what].remedy, files[what].option, files[what].variable);
}

int find_open(enum find_what what, const char *given, char ret_path[PATH_MAX], struct sm_error *err)
{
    CLEANUP_FD int fd = -1;
    struct stat st;
    int r = find_file(what, given, ret_path, err);

    if (r < 0)
        return r;
    /* Non-blocking: a FIFO of that name must not hold us. */
    fd = open(ret_path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0)
        return sm_error_sys(err, errno, "cannot open %s '%s'", files[what].noun, ret_path);
    if (!S_ISREG(st.st_mode))
        return sm_error_set(err, EINVAL, "%s '%s' is not a file", files[what].noun, ret_path);
    return steal_fd(&fd);
}

static int kvm_open_error(int code, struct sm_error *err)
{
    if (code == ENOENT || code == ENXIO || code == ENODEV)
        return sm_error_set(err, ENOENT,
                            "this host has no usable /dev/kvm: load the module (modprobe kvm_intel or kvm_amd), switch "
                            "virtualization on in the firmware, or on a virtual machine allow nested virtualization");
    if (code == EACCES || code == EPERM)
        return sm_error_set(err, EACCES,
                            "no permission to use /dev/kvm: add your user to its group (usually 'sudo usermod -aG kvm "
                            "$USER', then log in again)");
    return sm_error_sys(err, code, "cannot open /dev/kvm");
}

int find_kvm(struct sm_error *err)
{
    CLEANUP_FD int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int version;

    if (fd < 0)
        return kvm_open_error(errno, err);
    version = ioctl(fd, KVM_GET_API_VERSION, 0);
    if (version < 0)
        return sm_error_sys(err, ENOTSUP, "/dev/kvm is not KVM's device (%s)", strerror(errno));
    if (version != KVM_API_VERSION)
        return sm_error_set(err, ENOTSUP, "/dev/kvm speaks version %d of its interface, version %d is needed", version,
                            KVM_API_VERSION);
    return steal_fd(&fd);
}
