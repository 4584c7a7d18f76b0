/* The child's standard streams, of every kind. */
#ifndef AVF_STREAMS_H
#define AVF_STREAMS_H

#include "files.h"

/* guarded by lock */
struct avf_pipes {
    int32_t child_end[3], parent_end[3]; /* -1 where there is none */
};

/* THREAD loop, in the gate. The sources of a plan's streams, as they are at the call; those of pipes are closed
 * until avf_streams_add_pipes. Every given number is checked before the first is duplicated: a duplicate could get a
 * number that was closed. RETURNS 0 or -errno. */
int avf_streams_hold(const avf_plan *plan, struct avf_files *files, int32_t *numbers, int32_t *ret_sources);

/* THREAD loop, in the gate. Duplicates of a terminal's master, as the parent's ends of stdout, and of stdin if there is
 * input for it; the plan has no such pipes. RETURNS 0 or -errno. */
int avf_streams_hold_terminal(const avf_plan *plan, int master, int has_input, struct avf_pipes *pipes);

/* THREAD worker. The pipes of a plan, noted as soon as they are there. RETURNS 0 or -errno with the step. */
int avf_streams_make_pipes(const avf_plan *plan, struct avf_pipes *pipes, int32_t *ret_step);

/* THREAD worker. Completes the sources with the pipes. */
void avf_streams_add_pipes(const avf_plan *plan, const struct avf_pipes *pipes, int32_t *sources);

/* THREAD worker. An inherited stream whose duplicate sits on this number or above is used where it is:
 * ret_same_as tells what the child must find it to be, or is -1. */
void avf_streams_prefer_own(const avf_plan *plan, int32_t *sources, int32_t above, int32_t *ret_same_as);

/* THREAD any. Closes those numbers that are none of -1. */
void avf_close_all(const int32_t *fds, uint32_t count);

#endif
