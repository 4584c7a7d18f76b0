/* The parent's side of the launcher: what a child needs to go on in an address space of its own. */
#ifndef AVF_LAUNCH_H
#define AVF_LAUNCH_H

#include "child.h"

/* THREAD worker. RETURNS a descriptor of the launcher that can be executed and nothing else, or -errno. Not in the gate:
 * the file system may be a dead server's. A process that is forked meanwhile keeps a copy, of a file with no secret. */
int avf_launch_open(void);

/* THREAD worker, in the gate. RETURNS an empty memfd, or -errno. */
int avf_launch_create(void);

/* THREAD worker. What its child must lend to the launcher. */
void avf_launch_rights(struct avf_rights *ret_rights);

/* THREAD worker. Fills it with what the launcher must know, and seals it. RETURNS 0 or -errno. */
int avf_launch_fill(int fd, const avf_plan *plan, uint64_t sigmask, int32_t parent_pid,
                    const struct avf_rights *rights);

/* THREAD any. RETURNS 0 if the launcher is there and may be executed, else -errno. */
int avf_launch_check(void);

/* THREAD worker. Whether the launcher that this process was, at AVF_STEP_EXEC, is gone from it: its name is. For a pipe
 * whose end does not come, since somebody else holds it. */
int avf_launch_has_run_exec(int32_t pid);

#endif
