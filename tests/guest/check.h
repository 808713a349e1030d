/* SPDX-License-Identifier: Apache-2.0 */
/* The guest check program's two halves: activities that find faults (checks.c), and the program around them (check.c).
 */
#ifndef CHECK_H
#define CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CHECK_PORT      8080u    /* TCP on the loopback, and vsock: what is sent comes back */
#define CHECK_DATA      "/data/" /* files 0 to CHECK_FILES - 1 of the image */
#define CHECK_FILES     3u
#define CHECK_FILE_SIZE (256u << 10)

/* What the files and the memory are made of: word `i` of the thing `what`. The images' maker knows it, too. */
static inline uint64_t check_word(uint64_t what, uint64_t i)
{
    uint64_t x = (what << 32 ^ i) * 0x9e3779b97f4a7c15u;

    return x ^ x >> 29;
}

/* Start everything on all processors, with `mib` MiB of memory to look after. */
void checks_start(size_t mib);

/*
 * Wait until every activity has gone through a round that began after this call. False, and a line in `text`, when one
 * has found a fault, now or before, or has not come round after `seconds`.
 */
bool checks_verify(unsigned seconds, char *text, size_t len);

/* What became of connections from outside: "accepted 2 open 1 ended 0 reset 1". */
void checks_peers(char *text, size_t len);

#endif
