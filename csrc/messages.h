/* Open files in flight: held by the kernel, with no number in this process' table. */
#ifndef AVF_MESSAGES_H
#define AVF_MESSAGES_H

#include "child.h"
#include "state.h"

/* A pair of sockets that holds at most one message. guarded by lock */
struct avf_wire {
    struct avf_wire *next; /* idle, or not open */
    int32_t in, out;       /* -1 where it is not open */
};

/* THREAD loop, in the gate, under the lock. A port opens: makes a wire ready beside its other descriptors, so that the
 * first spawn with such files does not look like a leak of two. */
void avf_messages_prepare(void);

/* THREAD any, in the gate, under the lock. The last port closes. */
void avf_messages_close_idle(void);

/* THREAD loop, in the gate. Whether there is a wire to be had: the kernel limits the files in flight. */
int avf_messages_have_room(void);

/* THREAD loop, in the gate. Sends the files behind these numbers. RETURNS 0, or -errno where that cannot be had. */
int avf_message_send(const int32_t *numbers, uint32_t count, struct avf_wire **ret_wire);

/* THREAD any, in the gate. OWNS the wire. Lets go of the files in the message, which closes nothing in this table. */
void avf_message_discard(struct avf_wire *wire);

/* THREAD any, under the lock. Whether a number is one of ours. */
int avf_messages_own(int fd);

/* THREAD any, in the child of a fork: the sockets, and what is in them, are the parent's. */
void avf_messages_after_fork(void);

#endif
