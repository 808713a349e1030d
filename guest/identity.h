/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What makes a machine this machine to the programs in it, and a restored machine another one: the file
 * /run/supermachine/generation, the machine id where the image leaves it to be made, the host name in the files that
 * the agent wrote. (Random numbers, clock and boot id are the kernel's.)
 */
#ifndef GUEST_IDENTITY_H
#define GUEST_IDENTITY_H

#include "request.h"

#define GA_DEFAULT_HOSTNAME "supermachine"

#define GA_GENERATION_FILE "/run/supermachine/generation"

/* Text of an /etc/hosts that the agent makes. */
#define GA_HOSTS_SIZE (512 + AGENT_MAX_FILE)

struct ga_identity {
    int root;   /* of the image, an open directory; -1: not set up yet */
    bool known; /* the host has told the generation */
    uint8_t generation[AGENT_GENERATION_SIZE];
    char hostname[AGENT_MAX_HOSTNAME + 1];
    char *hosts; /* the host's lines for /etc/hosts */
    char machine_id[2 * AGENT_GENERATION_SIZE + 2];
    bool in_etc, in_dbus; /* where a machine id is the agent's to write */
};

#define GA_IDENTITY_INIT                                                                                               \
    {                                                                                                                  \
        .root = -1                                                                                                     \
    }

void ga_hosts_text(char ret[GA_HOSTS_SIZE], const char *hostname, const char *lines);

/* The image's root is there (`root` stays the caller's): writes what belongs to it. */
void ga_identity_setup(struct ga_identity *id, int root, const struct ga_setup *setup);
void ga_identity_done(struct ga_identity *id);

/* False: that is what it is already. Before set-up it is remembered for then. What cannot be written is said on stderr.
 */
bool ga_identity_renew(struct ga_identity *id, const uint8_t generation[AGENT_GENERATION_SIZE]);

/* The kernel's host name has become `hostname`: the files follow, unless somebody has changed them since. */
void ga_identity_rename(struct ga_identity *id, const char *hostname);

#endif
