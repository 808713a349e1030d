/* SPDX-License-Identifier: Apache-2.0 */
/* The options of every command that may talk to a registry. */
#ifndef SM_CLI_REGISTRY_ARGS_H
#define SM_CLI_REGISTRY_ARGS_H

#include <stdbool.h>
#include <stddef.h>

#include <supermachine/supermachine.h>

struct registry_args {
    const char *auth_file, *ca_file, *cert_file, *key_file;
    bool plain_http;
};

/* Their rows, for the table of a command whose options struct is `type` and has them as `at`. */
/* clang-format off */
#define REGISTRY_OPTIONS_OF(type, at)                                                                                  \
    {"auth-file", 0, OPTION_STRING, offsetof(type, at.auth_file), "FILE",                                              \
     "Look for the registry's user name and password here first (as in Docker's config.json)"},                        \
    {"ca-file", 0, OPTION_STRING, offsetof(type, at.ca_file), "FILE",                                                  \
     "Trust these certificates (PEM), too, when a registry is asked"},                                                 \
    {"cert-file", 0, OPTION_STRING, offsetof(type, at.cert_file), "FILE",                                              \
     "Show this certificate (PEM) to the registry"},                                                                   \
    {"key-file", 0, OPTION_STRING, offsetof(type, at.key_file), "FILE",                                                \
     "The private key (PEM) of --cert-file"},                                                                          \
    {"plain-http", 0, OPTION_FLAG, offsetof(type, at.plain_http), NULL,                                                \
     "Allow to talk to the registry without TLS: anybody on the way can read that"}
/* clang-format on */

#define REGISTRY_OPTIONS(type) REGISTRY_OPTIONS_OF(type, registry)

void registry_args_fill(struct sm_registry_options *ret, const struct registry_args *a);

/* What the manual says about them: pairs for struct command's notes. */
#define REGISTRY_NOTES                                                                                                 \
    "REGISTRIES",                                                                                                      \
        "User names and passwords are those that 'docker login', 'podman login' or 'skopeo login' have stored, "       \
        "credential helpers among them. Proxies are taken from HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY. "      \
        "Mirrors, and what is to be trusted for single hosts, are told by the file $SUPERMACHINE_CONFIG, else "        \
        "~/.config/supermachine/registries.json. Registries on this machine's loopback may be without TLS. "           \
        "docs/registries.md tells more."

#endif
