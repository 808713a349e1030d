/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who this machine is: see identity.h.
 *
 * A file that holds something else than what the agent wrote has been changed by a program in the guest, and is that
 * program's from then on. The machine id follows machine-id(5): a file that is empty or says "uninitialized" wants an
 * id made at first boot; one that is not there is none that programs of this image look for.
 */
#include "identity.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "root.h"

#define ETC_ID  "/etc/machine-id"
#define DBUS_ID "/var/lib/dbus/machine-id"

#define HEX_SIZE (2 * AGENT_GENERATION_SIZE + 2) /* with a newline and the end */

void ga_hosts_text(char ret[GA_HOSTS_SIZE], const char *hostname, const char *lines)
{
    snprintf(ret, GA_HOSTS_SIZE,
             "127.0.0.1\tlocalhost\n"
             "::1\tlocalhost ip6-localhost ip6-loopback\n"
             "127.0.1.1\t%s\n"
             "%s",
             hostname, lines);
}

static void to_hex(char ret[HEX_SIZE], const uint8_t bytes[AGENT_GENERATION_SIZE])
{
    for (unsigned i = 0; i < AGENT_GENERATION_SIZE; i++)
        snprintf(ret + 2 * i, 3, "%02x", bytes[i]);
    ret[HEX_SIZE - 2] = '\n';
    ret[HEX_SIZE - 1] = '\0';
}

static void replace(struct ga_identity *id, const char *path, const char *text, mode_t mode)
{
    int r = ga_root_replace(id->root, path, text, mode);

    if (r < 0)
        fprintf(stderr, "supermachine agent: %s cannot be written: %s\n", path, strerror(-r));
}

static void write_generation(struct ga_identity *id)
{
    char text[HEX_SIZE];
    int r = ga_root_make_parents(id->root, GA_GENERATION_FILE);

    if (r < 0) {
        fprintf(stderr, "supermachine agent: no place for " GA_GENERATION_FILE ": %s\n", strerror(-r));
        return;
    }
    to_hex(text, id->generation);
    replace(id, GA_GENERATION_FILE, text, 0644);
}

/* Random, and another one for another generation even where the random numbers were not. Version 4 as RFC 9562 has it.
 */
static void make_machine_id(struct ga_identity *id)
{
    uint8_t b[AGENT_GENERATION_SIZE] = {0};

    if (getrandom(b, sizeof(b), 0) < 0)
        fprintf(stderr, "supermachine agent: no random numbers for a machine id: %s\n", strerror(errno));
    for (unsigned i = 0; i < sizeof(b); i++)
        b[i] ^= id->generation[i];
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    to_hex(id->machine_id, b);
}

static bool wants_machine_id(int root, const char *path)
{
    char text[32];

    return ga_root_read(root, path, text, sizeof(text)) >= 0 &&
           (strcmp(text, "") == 0 || strcmp(text, "uninitialized") == 0 || strcmp(text, "uninitialized\n") == 0);
}

static bool is_text(int root, const char *path, const char *text)
{
    char have[GA_HOSTS_SIZE];

    return ga_root_read(root, path, have, sizeof(have)) >= 0 && strcmp(have, text) == 0;
}

void ga_identity_setup(struct ga_identity *id, int root, const struct ga_setup *setup)
{
    char text[GA_HOSTS_SIZE];

    id->root = root;
    snprintf(id->hostname, sizeof(id->hostname), "%s", *setup->hostname ? setup->hostname : GA_DEFAULT_HOSTNAME);
    id->hosts = strdup(setup->hosts);
    if (root < 0)
        return;
    if (!id->known && getrandom(id->generation, sizeof(id->generation), 0) < 0)
        fprintf(stderr, "supermachine agent: no random numbers for a generation: %s\n", strerror(errno));
    write_generation(id);
    id->in_etc = wants_machine_id(root, ETC_ID);
    /* An id of the image's own in /etc is not contradicted in the older place. */
    id->in_dbus =
        wants_machine_id(root, DBUS_ID) && (id->in_etc || ga_root_read(root, ETC_ID, text, sizeof(text)) == -ENOENT);
    make_machine_id(id);
    if (id->in_etc)
        replace(id, ETC_ID, id->machine_id, 0444);
    if (id->in_dbus)
        replace(id, DBUS_ID, id->machine_id, 0444);
}

void ga_identity_done(struct ga_identity *id)
{
    free(id->hosts);
    *id = (struct ga_identity)GA_IDENTITY_INIT;
}

bool ga_identity_renew(struct ga_identity *id, const uint8_t generation[AGENT_GENERATION_SIZE])
{
    if (id->known && memcmp(id->generation, generation, AGENT_GENERATION_SIZE) == 0)
        return false;
    id->known = true;
    memcpy(id->generation, generation, AGENT_GENERATION_SIZE);
    if (id->root < 0)
        return true;
    write_generation(id);
    id->in_etc = id->in_etc && is_text(id->root, ETC_ID, id->machine_id);
    id->in_dbus = id->in_dbus && is_text(id->root, DBUS_ID, id->machine_id);
    make_machine_id(id);
    if (id->in_etc)
        replace(id, ETC_ID, id->machine_id, 0444);
    if (id->in_dbus)
        replace(id, DBUS_ID, id->machine_id, 0444);
    return true;
}

void ga_identity_rename(struct ga_identity *id, const char *hostname)
{
    char old[GA_HOSTS_SIZE], text[GA_HOSTS_SIZE];

    if (id->root >= 0) {
        snprintf(old, sizeof(old), "%s\n", id->hostname);
        snprintf(text, sizeof(text), "%s\n", hostname);
        if (is_text(id->root, "/etc/hostname", old))
            replace(id, "/etc/hostname", text, 0644);
        ga_hosts_text(old, id->hostname, id->hosts ? id->hosts : "");
        ga_hosts_text(text, hostname, id->hosts ? id->hosts : "");
        if (is_text(id->root, "/etc/hosts", old))
            replace(id, "/etc/hosts", text, 0644);
    }
    snprintf(id->hostname, sizeof(id->hostname), "%s", hostname);
}
