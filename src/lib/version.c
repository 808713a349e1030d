/* SPDX-License-Identifier: Apache-2.0 */
/* The library's version. */
#include <supermachine/supermachine.h>

const char *sm_version(void)
{
    return SM_VERSION;
}
