/* The caller's open files that a child is to have, held from the call until the child has them. */
#ifndef AVF_FILES_H
#define AVF_FILES_H

#include "messages.h"

/* One duplicate, for all requests that wait with the same open file. guarded by lock */
struct avf_file {
    struct avf_file *previous, *next;
    uint32_t references;
    int32_t fd;
    int32_t number;    /* of the caller's, that it was made of */
    uint8_t lockable;  /* its close may drop record locks of this process */
    uint8_t kept;      /* it was not closed, for there was such a lock */
    uint8_t inherited; /* a standard stream of the caller's: likely to be wanted again */
    uint64_t looked;   /* when that was last looked at, see files.c */
};

/* What one request holds. */
struct avf_files {
    struct avf_file **shared; /* room for every given number */
    uint32_t message_count;   /* files in the message */
    int32_t message_fd;       /* the child's end of it, or -1; immutable after submit */
    /* guarded by lock */
    uint32_t shared_count;
    uint8_t is_holder; /* it counts among those that hold duplicates */
    struct avf_message message;
};

/* THREAD loop, in the gate. Holds the open file behind a number of the caller's; RETURNS 0 or -errno. ret_source
 * is as the child wants it (AVF_SOURCE_*). `numbers` has room for AVF_MESSAGE_FILES. */
int avf_files_hold(struct avf_files *files, int fd, int32_t *numbers, int32_t *ret_source);

/* THREAD loop, in the gate. The same for a standard stream of the caller's own. Its duplicate waits for the next
 * request as long as there is any other: in a burst of spawns three are made, not three for each. */
int avf_files_hold_inherited(struct avf_files *files, int fd, int32_t *numbers, int32_t *ret_source);

/* THREAD loop, in the gate. After the last avf_files_hold: sends the message. Where that cannot be had, the
 * `count` sources that name a file in it become duplicates. RETURNS 0 or -errno. */
int avf_files_send(struct avf_files *files, const int32_t *numbers, int32_t *sources, uint32_t count);

/* THREAD any. Whether to let go of them could block: a socket that lingers (socket(7)), the last reference to a
 * file of a network file system. */
int avf_files_may_block(const struct avf_files *files);

/* THREAD any, in the gate. Lets go of all, but for those that could block: these stay, and are closed by
 * avf_files_close_late, outside. */
void avf_files_release(struct avf_files *files);
void avf_files_close_late(struct avf_files *files);

/* THREAD any, in the child of a fork. The duplicates are closed once, by avf_files_after_fork, and not with each
 * request that shares them. */
void avf_files_forget_shared(struct avf_files *files);
void avf_files_after_fork(void);

#endif
