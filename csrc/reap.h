/* Is a child over, and how? The one place that asks the kernel. */
#ifndef AVF_REAP_H
#define AVF_REAP_H

#include <stdint.h>

#include "sys.h"

struct avf_exit {
    int32_t status;      /* as waitpid(2) gives it */
    int32_t flags;       /* AVF_STATUS_* */
    int32_t is_unreaped; /* it is over, and its pid still its own */
    struct sys_rusage rusage;
};

/* THREAD any. Reaps the child if it is over; never blocks. RETURNS 1 and fills ret_exit if it is over, even if
 * somebody else has reaped it or a filter forbids to ask; 0 if it is not, or a tracer has it. */
int avf_reap(int pidfd, int32_t pid, struct avf_exit *ret_exit);

/* THREAD any. The same, but leaves the child unreaped, if nobody else has reaped it and no filter forbids to look. */
int avf_reap_peek(int pidfd, int32_t pid, struct avf_exit *ret_exit);

/* How a child ended that clone has made, as far as its worker must know. */
enum avf_fate { AVF_FATE_RAN, AVF_FATE_DIED };

/* THREAD worker. The vfork child has let its parent go on, and the report said `failed` and `step`: it runs its
 * program, or it is over (and then it is reaped here). RETURNS an avf_fate, with ret_status for one that died,
 * or -errno where the kernel will not say. */
int avf_reap_fate(int pidfd, int32_t pid, int failed, int32_t step, int32_t *ret_status);

/* THREAD worker. Whether a child that has made no failure known has run exec, or was reaped by somebody else; never
 * blocks, and reaps nothing. */
int avf_reap_has_run_exec(int pidfd);

/* THREAD any. Signals a child through its pidfd. RETURNS 0 or -errno. */
int avf_signal(int pidfd, int32_t pid, int signal);

/* THREAD any. Whether this thread may signal a group by the pidfd of its leader, reaped or not: 0 or -errno. */
int avf_signal_group_by_pidfd(void);

/* THREAD any. Signals the process group of this leader. Where that cannot be done by pidfd, by number, if nobody has
 * reaped the leader; a pid < 0 forbids that. RETURNS 0, -ESRCH if there is no member, or -errno. */
int avf_signal_group(int pidfd, int32_t pid, int signal);

/* THREAD worker|reaper. Kills the child and waits until it is dead and reaped; the pidfd stays the caller's. RETURNS
 * its status. */
int32_t avf_kill_and_wait(int pidfd, int32_t pid);

#endif
