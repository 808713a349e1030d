/* SPDX-License-Identifier: Apache-2.0 */
/* Control server: a bake is armed, fires, and is told (BAKE, the event BAKED). */
#include <errno.h>

#include "base/error.h"
#include "vmm/server_private.h"

int serve_bake(struct server *s, const struct control_request *req, struct fds *fds, struct sm_error *err)
{
    return sm_error_set(err, ENOSYS, "this worker does not bake");
}
