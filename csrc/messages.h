/* Open files in flight: held by the kernel, with no number in this process' table. */
#ifndef AVF_MESSAGES_H
#define AVF_MESSAGES_H

#include "child.h"
#include "state.h"

/* A pair of sockets with one message. guarded by lock */
struct avf_message {
    int32_t in, out; /* -1 where there is none; the child looks at the message at `out` */
};

/* THREAD loop, in the gate. Whether another message may be in flight: the kernel limits the files. */
int avf_messages_have_room(void);

/* THREAD loop, in the gate. Sends the files behind these numbers. RETURNS 0, or -errno where that cannot be had. */
int avf_message_send(const int32_t *numbers, uint32_t count, struct avf_message *ret_message);

/* THREAD any, in the gate. Lets go of the files in the message, which closes nothing in this table. */
void avf_message_discard(struct avf_message *message);

/* THREAD any, in the child of a fork: there are no requests. */
void avf_messages_after_fork(void);

#endif
