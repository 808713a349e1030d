/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's processor in words: see snapshot_cpu.h.
 *
 * x86-64: the vendor, and the words of CPUID that hold feature bits and nothing else (Intel SDM volume 2A, CPUID; AMD
 * APM volume 3, appendix E): "GenuineIntel 1.c=...", in hex. Another vendor's processor is refused, as it differs where
 * no bit tells; so is one that lacks a bit. The worker looks again at what the guest was really shown.
 * arm64: the main id register, as the kernel shows it. Another one is refused.
 */
#include "lib/snapshot_cpu.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/io.h"

#if defined(__x86_64__)
#include <cpuid.h>

enum reg { A, B, C, D };

static const struct {
    const char *name;
    uint32_t leaf, subleaf;
    enum reg reg;
} words[] = {
    {"1.c", 1, 0, C},
    {"1.d", 1, 0, D},
    {"7.b", 7, 0, B},
    {"7.c", 7, 0, C},
    {"7.d", 7, 0, D},
    {"7.1.a", 7, 1, A},
    {"d.1.a", 0xd, 1, A},
    {"80000001.c", 0x80000001, 0, C},
    {"80000001.d", 0x80000001, 0, D},
};

struct cpu {
    char vendor[13];
    uint32_t word[ARRAY_SIZE(words)];
};

static uint32_t read_word(uint32_t leaf, uint32_t subleaf, enum reg reg)
{
    uint32_t r[4];

    /* A subleaf that is over the leaf's last one reads as zeros on every processor that has leaf 7 or 0xd. */
    return __get_cpuid_count(leaf, subleaf, &r[A], &r[B], &r[C], &r[D]) ? r[reg] : 0;
}

const char *snapshot_cpu(char buf[SNAPSHOT_CPU_SIZE])
{
    uint32_t max, vendor[3] = {0};
    size_t len;

    __get_cpuid(0, &max, &vendor[0], &vendor[2], &vendor[1]);
    memcpy(buf, vendor, sizeof(vendor));
    buf[sizeof(vendor)] = '\0';
    for (char *p = buf; *p; p++) { /* twelve letters, by its word; it becomes one word of ours */
        if (*p <= ' ' || *p > '~')
            *p = '-';
    }
    len = strlen(buf);
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        len += (size_t)snprintf(buf + len, SNAPSHOT_CPU_SIZE - len, " %s=%x", words[i].name,
                                read_word(words[i].leaf, words[i].subleaf, words[i].reg));
    return buf;
}

/* All of the text, or false. */
static bool parse(struct cpu *ret, const char *text)
{
    int n = 0;

    if (sscanf(text, "%12s%n", ret->vendor, &n) != 1)
        return false;
    for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
        size_t name = strlen(words[i].name);
        int used = 0;

        text += n;
        if (text[0] != ' ' || strncmp(text + 1, words[i].name, name) != 0 || text[1 + name] != '=' ||
            sscanf(text + 2 + name, "%8x%n", &ret->word[i], &used) != 1)
            return false;
        n = (int)(2 + name) + used;
    }
    return !text[n];
}

int snapshot_cpu_suits(const char *need, const char *have, struct sm_error *err)
{
    struct cpu a, b;

    if (!parse(&a, need) || !parse(&b, have))
        return sm_error_set(err, ENOTSUP, "what processor it was made on cannot be understood: make it anew");
    if (strcmp(a.vendor, b.vendor) != 0)
        return sm_error_set(err, ENOTSUP, "it was made on a processor of %s, and this host's is of %s: make it anew",
                            a.vendor, b.vendor);
    for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
        if (a.word[i] & ~b.word[i])
            return sm_error_set(err, ENOTSUP,
                                "it was made on a processor with features that this host's lacks (CPUID %s, bits %x): "
                                "make it anew",
                                words[i].name, a.word[i] & ~b.word[i]);
    }
    return 0;
}

#else

const char *snapshot_cpu(char buf[SNAPSHOT_CPU_SIZE])
{
    CLEANUP_FD int fd = open("/sys/devices/system/cpu/cpu0/regs/identification/midr_el1", O_RDONLY | O_CLOEXEC);
    char text[64];
    ssize_t n = fd < 0 ? -1 : io_read_full(fd, text, sizeof(text) - 1);

    text[n > 0 ? n : 0] = '\0';
    text[strcspn(text, "\n")] = '\0';
    snprintf(buf, SNAPSHOT_CPU_SIZE, "midr %s", text);
    return buf;
}

int snapshot_cpu_suits(const char *need, const char *have, struct sm_error *err)
{
    if (strcmp(need, have) != 0)
        return sm_error_set(err, ENOTSUP, "it was made on another kind of processor: make it anew");
    return 0;
}

#endif
