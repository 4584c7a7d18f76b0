/* Low numbers, kept from early on: through one of them a child finds its files in a table of many. */
#ifndef AVF_MAILBOX_H
#define AVF_MAILBOX_H

#include "files.h"

enum {
    AVF_MAILBOXES = 8,
    /* Up to this number of a source, unsharing the table in the child copies less than clone would; a mailbox's is
     * always below. */
    AVF_UNSHARE_BELOW = 256,
};

/* The mailboxes of one attempt. worker only */
struct avf_mail {
    struct avf_child_message
        message[2]; /* the given one, and that of the high sources; fd is -1 where there is none */
    int32_t box[2]; /* whose they are, or -1 */
};

/* THREAD any, in the gate, under the lock. Keeps low numbers, as far as there are any, instead of those that the
 * application has closed behind our back. */
void avf_mailbox_open(void);

/* THREAD worker. Makes all that a child needs reachable by low numbers: sends those sources that sit high, and puts the
 * sockets of messages into mailboxes. A source that was sent becomes AVF_SOURCE_RECEIVED, behind the given message's.
 * RETURNS 0, or -errno where that cannot be had (or report is NULL); the sources are then of no use. In either case ret_mail
 * is filled. */
int avf_mailbox_post(const struct avf_files *files, int32_t *sources, uint32_t count,
                     const struct avf_report *report, struct avf_mail *ret_mail);

/* THREAD worker. The child has what it needs, or is over: empties the mailboxes. RETURNS whether there were any. */
int avf_mailbox_clear(struct avf_mail *mail);

/* THREAD any, under the lock. Whether a number is that of a mailbox. */
int avf_mailbox_is_ours(int number);

/* THREAD any, in the child of a fork. The numbers stay this process', without its parent's messages. */
void avf_mailbox_after_fork(void);

#endif
