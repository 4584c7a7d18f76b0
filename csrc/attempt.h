/* One attempt at a child: from the pipes to a program that runs, or the reason why not. */
#ifndef AVF_ATTEMPT_H
#define AVF_ATTEMPT_H

#include "request.h"

/* worker only until posted */
struct avf_attempt {
    enum avf_outcome kind;
    int32_t error, step, status; /* of a failure */
    int32_t pid;                 /* of a child */
    int32_t flags;
    int32_t notes[AVF_NOTES];
    int64_t started_ns, resumed_ns;
};

/* THREAD worker. SIGNALS all blocked but libc's. Makes the child of a request that has a seat, and finds out how it
 * went. What the request then holds: the parent's ends of pipes and the pidfd of a child that runs. */
void avf_attempt_run(struct avf_request *request, struct avf_attempt *attempt);

/* THREAD worker. It has failed; error is -errno, or 0 with the status of a child that died. */
void avf_attempt_fail(struct avf_attempt *attempt, int32_t step, int32_t error);

/* THREAD worker. The child of this attempt is over, or there was none (pid < 0): nobody finds its pidfd any more. */
void avf_attempt_forget_child(struct avf_request *request, long pid);

#endif
