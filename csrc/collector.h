/* Output and input off the loop. */
#ifndef AVF_COLLECTOR_H
#define AVF_COLLECTOR_H

#include "capture.h"
#include "port.h"

/* THREAD loop, in the gate, under the lock. Opens what the collector waits with, once for all ports. RETURNS 0 or -errno. */
int avf_collector_open(void);
/* THREAD any, in the gate, under the lock. A port has closed: closes it where that was the last. */
void avf_collector_close(void);

/* THREAD loop. Not under the lock, nor in the gate. Announces one capture more: there will be a collector until it is
 * over. RETURNS 0 or -errno. */
int avf_collector_expect(struct avf_captured *c);
/* THREAD any, under the lock. It is over; idempotent. */
void avf_collector_unexpect(struct avf_captured *c);

/* THREAD worker, under the lock. A child runs, whose slot has been filled: the collector takes it and these ends of its
 * pipes. RETURNS 0 or -errno; then nothing has changed. */
int avf_collector_add(struct avf_slot *slot, int pidfd, const int32_t ends[3]);

/* THREAD any. Not under the lock, nor in the gate. The collector works on it no more: waits for less than a
 * millisecond. */
void avf_collector_take_away(struct avf_captured *c);
/* THREAD any, under the lock. The slot of a capture that is under way, or has a record that was not drained; or NULL. */
struct avf_slot *avf_collector_slot(struct avf_captured *c);
/* THREAD any, under the lock. A capture that is not busy is over: RETURNS its ends. */
void avf_collector_end(struct avf_captured *c, int32_t ret_ends[3]);
/* THREAD any, under the lock. What avf_capture_hurry does. */
void avf_collector_hurry(struct avf_slot *slot, struct avf_captured *c, int64_t drain_ns);
/* THREAD any, under the lock, in the gate. The same, for good: its ends are closed, its child is an orphan. */
void avf_collector_abandon(struct avf_slot *slot, struct avf_captured *c);
/* THREAD loop, under the lock. A copy whose places are set; and it ends before its time. */
void avf_collector_add_copy(struct avf_captured *c);
void avf_collector_end_copy(struct avf_captured *c);
/* THREAD any, under the lock. OWNS it: gives back what was mapped, slice by slice, then retires it. */
void avf_collector_discard(struct avf_captured *c);
/* THREAD loop, under the lock. RETURNS the list of those that only free(3) is missing. */
struct avf_captured *avf_collector_take_retired(void);

/* THREAD loop, under the lock. Completes the record of a slot that was posted, if it has a capture, which is the
 * receiver's from now on. */
void avf_collector_record(struct avf_slot *slot, avf_event *event);

/* THREAD any, in the gate, under the lock. The port of a slot in the hands of the collector has closed. */
void avf_collector_give_up(struct avf_slot *slot);

/* THREAD any, in the child of a fork, for each slot with a capture; then once. */
void avf_collector_forget(struct avf_slot *slot);
void avf_collector_after_fork(void);

#endif
