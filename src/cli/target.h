/* SPDX-License-Identifier: Apache-2.0 */
/* Where an archive goes: standard output, or a file that is there when it is complete. */
#ifndef SM_CLI_TARGET_H
#define SM_CLI_TARGET_H

/* A file is written beside its place and renamed into it. */
struct target {
    const char *file; /* NULL: standard output */
    char *temporary;  /* NULL: none */
    int fd;
};

/* `verb`: who asks, for the sentence. 0, or EXIT_OURS after it was printed. */
int target_open(struct target *t, const char *verb, const char *file);

/* `code`: how it went so far; returns how it went. */
int target_close(struct target *t, int code);

/* What was begun goes: before the process dies of a signal. */
void target_drop(struct target *t);

#endif
