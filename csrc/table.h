/* Which table of descriptors a child starts with. */
#ifndef AVF_TABLE_H
#define AVF_TABLE_H

#include "mailbox.h"
#include "request.h"

/* Ways that an attempt has found refused. */
enum { AVF_FORGO_UNSHARE = 1, AVF_FORGO_OWN_STREAMS = 2, AVF_FORGO_MAILBOXES = 4 };

/* THREAD worker. The report's pipe is open, if there is one. Fills what tells the child where its files come from, and
 * the mail that is to be cleared once it has them. */
void avf_table_choose(const struct avf_request *request, struct avf_child *child, int forgo,
                      struct avf_mail *mail);

#endif
