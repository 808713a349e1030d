/* SPDX-License-Identifier: Apache-2.0 */
/* Where an archive goes: see target.h. */
#include "cli/target.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/command.h"

int target_open(struct target *t, const char *verb, const char *file)
{
    struct stat st;

    *t = (struct target){.file = file, .fd = STDOUT_FILENO};
    if (!file)
        return isatty(STDOUT_FILENO) ? complain("%s: an archive is nothing for a terminal: name a file with -o, or "
                                                "redirect standard output",
                                                verb)
                                     : 0;
    /* What is no file (a pipe, a device) can't be replaced by one. */
    if (stat(file, &st) == 0 && !S_ISREG(st.st_mode)) {
        t->fd = open(file, O_WRONLY | O_CLOEXEC);
        return t->fd < 0 ? complain("cannot write to '%s': %s", file, strerror(errno)) : 0;
    }
    if (asprintf(&t->temporary, "%s.XXXXXX", file) < 0) {
        t->temporary = NULL;
        return complain("out of memory");
    }
    t->fd = mkostemp(t->temporary, O_CLOEXEC);
    if (t->fd >= 0)
        return 0;
    complain("cannot make a file beside '%s': %s", file, strerror(errno));
    free(t->temporary);
    t->temporary = NULL;
    return EXIT_OURS;
}

int target_close(struct target *t, int code)
{
    mode_t mask = umask(0);

    umask(mask);
    if (t->temporary && code == 0 &&
        (fchmod(t->fd, 0666 & ~mask) < 0 || fsync(t->fd) < 0 || rename(t->temporary, t->file) < 0))
        code = complain("cannot write '%s': %s", t->file, strerror(errno));
    if (t->temporary && code != 0)
        unlink(t->temporary);
    if (t->file && t->fd >= 0)
        close(t->fd);
    free(t->temporary);
    return code;
}

void target_drop(struct target *t)
{
    if (t->temporary)
        unlink(t->temporary);
}
