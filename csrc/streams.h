/* The caller's own standard streams, as requests that inherit them have found them. */
#ifndef AVF_STREAMS_H
#define AVF_STREAMS_H

#include <stdint.h>

struct avf_streams {
    uint32_t references; /* guarded by lock */
    int32_t fd[3]; /* immutable: duplicates of 0, 1 and 2; -1 for one that is closed, or closed by exec */
};

/* THREAD loop. Not under the lock. RETURNS 0 or -errno. */
int avf_streams_take(struct avf_streams **ret_streams);

/* THREAD any. Not under the lock. */
void avf_streams_release(struct avf_streams *streams);

#endif
