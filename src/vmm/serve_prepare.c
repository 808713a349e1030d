/* SPDX-License-Identifier: Apache-2.0 */
/* Control server: machines that are built before their snapshot is known, and machines that go back to it (REWIND). */
#include <errno.h>

#include "base/error.h"
#include "vmm/server_private.h"

int serve_prepare(struct server *s, struct sm_error *err)
{
    return sm_error_set(err, ENOSYS, "this worker prepares no machines");
}

int serve_rewind(struct server *s, const struct control_request *req, struct sm_error *err)
{
    return sm_error_set(err, ENOSYS, "this worker puts no machine back in place");
}
