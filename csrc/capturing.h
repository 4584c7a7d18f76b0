/* A capture's life in the hands of the collector. */
#ifndef AVF_CAPTURING_H
#define AVF_CAPTURING_H

#include "collection.h"
#include "port.h"

/* THREAD worker|loop, under the lock. The collector shall look after these ends, and a child that runs (pidfd >= 0).
 * RETURNS 0 or -errno; then nothing has changed. */
int avf_capturing_add(struct avf_slot *slot, int pidfd, const int32_t ends[3]);

/* THREAD any, under the lock. The slot of a capture that is under way, or has a record that was not drained; or NULL. */
struct avf_slot *avf_capturing_slot(struct avf_captured *c);
/* THREAD any, under the lock. The record of the slot that it has now, if it has one, says nothing of it any more: it
 * begins anew. */
void avf_capturing_let_go(struct avf_captured *c);
/* THREAD any, under the lock. The capture of a slot in the hands of the collector, or NULL. */
struct avf_captured *avf_capturing_capture(const struct avf_slot *slot);

/* THREAD collector, under the lock, in the gate. What was found of an end of a pipe (an avf_pipe_result or -errno), and
 * of a child; then what follows from it. */
void avf_capturing_note(struct avf_captured *c, int end, int result);
void avf_capturing_note_exit(struct avf_slot *slot, struct avf_captured *c, int over);
void avf_capturing_settle(struct avf_slot *slot, struct avf_captured *c);

/* THREAD loop, under the lock. What avf_capture_hurry does. */
void avf_capturing_hurry(struct avf_slot *slot, struct avf_captured *c, int64_t drain_ns);

/* THREAD any, under the lock. A capture that is not busy is over: RETURNS its ends. */
void avf_capturing_end(struct avf_captured *c, int32_t ret_ends[3]);
/* THREAD any, under the lock, in the gate. The same, for good: its ends are closed, its child is an orphan. */
void avf_capturing_abandon(struct avf_slot *slot, struct avf_captured *c);
/* THREAD any, in the gate, under the lock. The port of a slot in the hands of the collector has closed. */
void avf_capturing_give_up(struct avf_slot *slot);

/* THREAD loop, under the lock. Completes the record of a slot that was posted, if it has a capture, which is the
 * receiver's from now on. */
void avf_capturing_record(struct avf_slot *slot, avf_event *event);

/* THREAD any, in the child of a fork, for each slot. The memory is Python's still. */
void avf_capturing_forget(struct avf_slot *slot);

#endif
