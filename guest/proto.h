/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Agent protocol, version 3: what the host and the guest's agent say to each other over vsock.
 * This file holds every number; docs/guest-protocol.md explains them. Used by guest/ and by src/lib/agent.c.
 *
 * Theory of operation
 *
 * The host connects to AGENT_PORT. A connection is a byte stream of frames in both directions:
 *
 *     u32 length of the payload, u16 type, u16 zero, payload
 *
 * All numbers are little-endian. "str" is u32 length and that many bytes without a NUL; "list" is u32 count and the
 * items. A payload ends where its fields end: bytes left over are an error.
 *
 * The first frame each way is HELLO. The host does not wait for the agent's: it sends HELLO and its requests at once.
 * Control requests (SETUP, SYNC, PING, POWER, PRE_EXEC, RENEW, PUT) are answered in order by one OK or ERROR each. EXEC
 * makes the connection belong to that exec until it ends, with EXITED or START_ERROR; then the next request may follow.
 * An ERROR ends the connection, so SETUP and EXEC may be sent together. Losing the connection kills the exec with
 * everything it started, unless it is detached: then ATTACH gives it to another connection, in a restored machine for
 * one.
 *
 * Streams have credit: a side sends at most AGENT_WINDOW bytes of a stream beyond what the other has said (CREDIT) it
 * is done with. So a reader that does not read stops its own stream only, and SIGNAL, RESIZE and EXITED always get
 * through.
 */
#ifndef AGENT_PROTO_H
#define AGENT_PROTO_H

#include <stdint.h>

#define AGENT_PORT    1024u
#define AGENT_MAGIC   0x41474d53u /* "SMGA" */
#define AGENT_VERSION 3u

#define AGENT_HEADER_SIZE 8u

/* Payload limits, in bytes. agent_frame_limit() says which is for which type. */
#define AGENT_REQUEST_MAX (2u << 20)  /* EXEC: what Linux takes for arguments and environment, and SETUP */
#define AGENT_DATA_MAX    (64u << 10) /* STDIN, STDOUT, STDERR: a pipe's worth; PUT and its data */
#define AGENT_SMALL_MAX   4096u       /* everything else */

#define AGENT_WINDOW (256u << 10) /* bytes of one stream under way, not yet credited */

#define AGENT_MAX_CONNECTIONS 256u                       /* at a time; one more is closed on accept */
#define AGENT_MAX_ARGS        16384u                     /* argv and env, entries each */
#define AGENT_MAX_ARG         131071u                    /* one entry: MAX_ARG_STRLEN of Linux without the NUL */
#define AGENT_MAX_PATH        4095u                      /* a path */
#define AGENT_MAX_USER        511u                       /* "user[:group]" */
#define AGENT_MAX_HOSTNAME    64u                        /* __NEW_UTS_LEN of Linux */
#define AGENT_MAX_FILE        16384u                     /* text of /etc/hosts or /etc/resolv.conf in SETUP */
#define AGENT_MAX_TEXT        1024u                      /* a sentence in ERROR or START_ERROR */
#define AGENT_MAX_RLIMITS     16u                        /* one each kind that Linux has */
#define AGENT_MAX_TIMEOUT_MS  (30ull * 24 * 3600 * 1000) /* of an exec */
#define AGENT_MAX_PUT         (1ull << 30)               /* bytes of a file in PUT */

#define AGENT_GENERATION_SIZE 16u /* identity of one restore, as the lifecycle device has it */

#define AGENT_EMPTY_DISK   4096u /* bytes: a root device of this size is not there yet, and grows */
#define AGENT_DISK_WAIT_MS 5000u /* ... within this time */
#define AGENT_HEARTBEAT_MS 100u  /* between two heartbeats */

enum agent_frame {
    /* Both ways. */
    AGENT_HELLO = 1,  /* u32 AGENT_MAGIC, u32 version */
    AGENT_CREDIT = 2, /* u32 stream, u32 bytes: done with so many more bytes of it */

    /* Host to guest: control requests. */
    AGENT_SETUP = 16, /* str hostname, str root device, str its file system type, u64 bytes of the writable layer
                         (0: half of memory), u32 AGENT_SETUP_* flags, str resolv.conf, str lines for /etc/hosts */
    AGENT_SYNC = 17,  /* empty: write dirty data to the disks */
    AGENT_PING = 18,  /* empty */
    AGENT_POWER = 19, /* u32 AGENT_POWER_*; the machine is gone soon after the OK, or before it */
    /* Empty. Everything is set up: after the OK the lifecycle device says so, and the agent waits. */
    AGENT_PRE_EXEC = 20,
    /* 16 bytes generation, str hostname ("": as it is), u32 signal (0: none) for the main process of every exec. This
       machine is a restored one. What was done for this generation is not done again. */
    AGENT_RENEW = 21,
    /* str path, u32 mode, u32 uid, u32 gid, u64 size: a file of the image's root. Its bytes follow in PUT_DATA. */
    AGENT_PUT = 22,

    /* Host to guest: exec. */
    AGENT_EXEC = 32,  /* u32 AGENT_EXEC_* flags, u64 timeout in ms (0: none), u16 rows, u16 columns, list of str argv,
                         list of str env, str cwd ("": /), str user ("": root),
                         list of rlimits: u32 RLIMIT_* of Linux, u64 soft, u64 hard */
    AGENT_STDIN = 33, /* bytes */
    AGENT_STDIN_EOF = 34, /* empty: no more stdin */
    AGENT_RESIZE = 35,    /* u16 rows, u16 columns; ignored without a terminal */
    AGENT_SIGNAL = 36,    /* u32 signal number, u32 AGENT_TARGET_*; ignored after the end */
    AGENT_PUT_DATA = 37,  /* bytes of PUT's file, 1 to AGENT_DATA_MAX, until there are as many as it said */
    /* u32 0. As EXEC, for the detached workload that is there already: STARTED, its output from now on, EXITED, also
       when it has ended before. ERROR: ENOENT there is none, EBUSY another connection has it. */
    AGENT_ATTACH = 38,

    /* Guest to host. */
    AGENT_OK = 64,          /* empty */
    AGENT_ERROR = 65,       /* u32 errno, str sentence; the connection ends */
    AGENT_STARTED = 66,     /* u32 process id in the guest: execve has happened */
    AGENT_STDOUT = 67,      /* bytes */
    AGENT_STDERR = 68,      /* bytes */
    AGENT_EXITED = 69,      /* u32 exit status, u32 fatal signal (0: it exited), u32 AGENT_EXITED_* flags,
                               u64 ns from EXEC to the end, u64 peak RSS in KiB */
    AGENT_START_ERROR = 70, /* u32 AGENT_START_*, u32 errno, str sentence */
};

enum agent_stream {
    AGENT_STREAM_STDIN = 0,
    AGENT_STREAM_STDOUT = 1, /* of a terminal: both */
    AGENT_STREAM_STDERR = 2,
};
#define AGENT_STREAMS 3u

#define AGENT_SETUP_READ_ONLY (1u << 0) /* the root cannot be written to once it is set up */
#define AGENT_SETUP_HEARTBEAT (1u << 1) /* heartbeat events every AGENT_HEARTBEAT_MS, until the machine is renewed */
#define AGENT_SETUP_LISTENERS (1u << 2) /* listener events for the TCP ports that execs listen on */
#define AGENT_SETUP_FLAGS     7u        /* all that are defined */

#define AGENT_POWER_OFF   1u
#define AGENT_POWER_RESET 2u

#define AGENT_EXEC_TTY          (1u << 0) /* a new terminal is stdin, stdout and stderr */
#define AGENT_EXEC_STDIN        (1u << 1) /* STDIN frames will come; without it stdin is /dev/null */
#define AGENT_EXEC_WORKLOAD     (1u << 2) /* the machine's main process: one at a time; its end ends all it started */
#define AGENT_EXEC_CREATE_CWD   (1u << 3) /* make the working directory when there is none */
#define AGENT_EXEC_NO_NEW_PRIVS (1u << 4)
#define AGENT_EXEC_DETACHED     (1u << 5) /* with WORKLOAD: losing the connection does not end it */
#define AGENT_EXEC_LATE_START   (1u << 6) /* nobody waits for STARTED: it may come with the first output, or the end */
#define AGENT_EXEC_FLAGS        127u      /* all that are defined */

#define AGENT_TARGET_PROCESS 0u /* the process that was started */
#define AGENT_TARGET_GROUP   1u /* its process group */
#define AGENT_TARGET_TREE    2u /* everything that came from it */

#define AGENT_EXITED_TIMED_OUT (1u << 0) /* ended by the timeout of EXEC */
#define AGENT_EXITED_CORE      (1u << 1) /* core dumped */

/* Why nothing was started. The exit code that Docker users know is behind the arrow. */
enum agent_start {
    AGENT_START_NOT_FOUND = 1,      /* -> 127 */
    AGENT_START_NOT_EXECUTABLE = 2, /* -> 126 */
    AGENT_START_BAD_CWD = 3,        /* -> 126 */
    AGENT_START_BAD_USER = 4,       /* -> 125 */
    AGENT_START_FAILED = 5,         /* -> 125: anything else, out of memory for one */
};

/* The most bytes that the payload of a frame of this type may have. */
static inline uint32_t agent_frame_limit(uint32_t type)
{
    if (type == AGENT_EXEC || type == AGENT_SETUP)
        return AGENT_REQUEST_MAX;
    if (type == AGENT_STDIN || type == AGENT_STDOUT || type == AGENT_STDERR || type == AGENT_PUT ||
        type == AGENT_PUT_DATA)
        return AGENT_DATA_MAX;
    return AGENT_SMALL_MAX;
}

#endif
