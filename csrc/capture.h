/* The memory of one capture. */
#ifndef AVF_CAPTURE_H
#define AVF_CAPTURE_H

#include <stddef.h>

#include "binding.h"
#include "reap.h"

/* Of each stream: what most children write, and no memory is mapped for. */
enum { AVF_CAPTURE_SMALL = 4096 };

struct avf_segment;

struct avf_stream {
    struct avf_segment *first, *last;
    char *copy_to; /* avf_capture_copy */
    char small[AVF_CAPTURE_SMALL];
};

/* Whoever has made it busy owns all but what the lock guards; with nobody, that is whoever holds the lock. */
struct avf_captured {
    avf_capture shown; /* first */
    /* guarded by lock */
    uint64_t ticket;   /* of its slot, which says whether it is under way */
    int32_t ends[3];   /* the parent's; -1 where there is none, or no more */
    uint8_t busy;      /* the collector works on it without the lock */
    uint8_t leaving;   /* somebody waits for that to end: the collector leaves it alone */
    uint8_t copying;   /* it is in the collector's list of copies, or busy as one */
    uint32_t expected; /* the generation in which it counts as one that the collector runs for, or 0 */
    uint8_t detached;  /* nobody will ask for it */
    uint8_t timed;     /* it is in the collector's list of those that wait for a time */
    int32_t error;     /* of the collector: -errno */
    int32_t flags;     /* AVF_CAPTURE_* */
    int64_t deadline;  /* with `timed` */
    int64_t read_before, written_before; /* of total and written: not yet in the counters */
    struct avf_captured *next;           /* there, or among the copies, or among the retired */
    struct avf_exit exit;
    /* the collector's */
    uint8_t large[3]; /* the pipe was enlarged, or was refused that */
    struct avf_stream streams[2];
};

/* THREAD any. Where the next bytes of a stream go. RETURNS 0 or -ENOMEM. */
int avf_capture_room(struct avf_captured *c, int stream, char **ret_at, size_t *ret_size);
/* THREAD any. So many were put there. */
void avf_capture_added(struct avf_captured *c, int stream, size_t size);

/* THREAD any. What was kept, from an offset on, as far as it lies in one piece. RETURNS its size. */
size_t avf_capture_find(struct avf_captured *c, int stream, size_t offset, char **ret_at);

/* THREAD collector. Copies or moves a slice of what was kept to its place. RETURNS whether all is there. */
int avf_capture_copy_slice(struct avf_captured *c);

/* THREAD any. What was kept becomes another capture's, which has nothing. */
void avf_capture_give_away(struct avf_captured *c, struct avf_captured *to);

/* THREAD any. Gives back a part of the memory that was mapped. RETURNS whether that was all. */
int avf_capture_release_slice(struct avf_captured *c);

#endif
