/* SPDX-License-Identifier: Apache-2.0 */
/* Options about registries: see registry_args.h. */
#include "cli/registry_args.h"

void registry_args_fill(struct sm_registry_options *ret, const struct registry_args *a)
{
    *ret = (struct sm_registry_options)SM_REGISTRY_OPTIONS_INIT;
    ret->auth_file = a->auth_file;
    ret->ca_file = a->ca_file;
    ret->cert_file = a->cert_file;
    ret->key_file = a->key_file;
    ret->plain_http = a->plain_http;
}
