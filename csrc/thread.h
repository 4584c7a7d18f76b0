/* How the core's threads are born. */
#ifndef AVF_THREAD_H
#define AVF_THREAD_H

#include <stdint.h>

enum {
    AVF_CHILD_STACK = 32 * 1024,   /* of which child_run uses well under 8 KiB */
    AVF_WORKER_STACK = 128 * 1024, /* the child's included */
};

/* THREAD any. The signals that libc uses between threads (SIGCANCEL, SIGSETXID, and musl's SIGSYNCCALL). */
uint64_t avf_libc_signals(void);

/* THREAD any. Not under the lock. Starts a detached thread that inherits the calling thread's confinement, with every
 * signal blocked but libc's. RETURNS 0 or -errno (EAGAIN: RLIMIT_NPROC, pids cgroup; EINVAL: the caller has
 * unshared its pid namespace). */
int avf_thread_start(void *(*entry)(void *), void *arg);

#endif
