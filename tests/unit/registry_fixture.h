/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the registry client share: an environment of its own, options, a manifest, a token server. */
#ifndef TEST_REGISTRY_FIXTURE_H
#define TEST_REGISTRY_FIXTURE_H

#include "http_server.h"
#include "oci/digest.h"
#include "oci/registry.h"

#define OCI_MANIFEST "application/vnd.oci.image.manifest.v1+json"
#define MANIFEST     "{\"schemaVersion\":2}"

/* cmocka setup and teardown: HOME and the like point to an empty directory, proxies are gone. *state: its name. */
int registry_fixture_setup(void **state);
int registry_fixture_teardown(void **state);
void fixture_write(void **state, const char *name, const char *text); /* a file in it, "a/b/c" too */
char *fixture_path(void **state, const char *name);                   /* to be freed */

struct digest digest_of_text(const char *s);

/* Plain HTTP, and short waits. */
struct registry_options fixture_options(void);
/* "a/b" on that port; fails the test when it cannot be opened. */
struct registry *fixture_open(const struct http_server *s, const struct registry_options *o);

/* registry_manifest("t") that must succeed with MANIFEST, or fail with `code` and this in its sentence. */
void expect_manifest(struct registry *r);
void expect_failure(struct registry *r, int code, const char *text);

bool reply_manifest(const struct server_request *q);
bool reply_404(const struct server_request *q);

#endif
