/* The worker: one thread that starts children. */
#ifndef AVF_WORKER_H
#define AVF_WORKER_H

#include "request.h"

/* THREAD loop. Not under the lock, nor in the gate. Starts the worker of a request that holds a seat. RETURNS 0 or
 * -errno (EAGAIN: RLIMIT_NPROC, pids cgroup; EINVAL: unshare(CLONE_NEWPID)), the request then untouched. */
int avf_worker_start(struct avf_request *request);

#endif
