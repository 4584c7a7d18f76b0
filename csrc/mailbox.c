/* DESIGN: mailboxes.
 *
 * What: a child that unshares the table of descriptors copies what sits up to a certain number. In a process with
 *     thousands of descriptors a pipe gets a number beyond all of them, and the child would have to copy them all. So a few
 *     low numbers are kept. At rest each is a duplicate of one idle socket, the placeholder. For one attempt it becomes a
 *     socket that holds a message with the files (messages.c); the child receives them in its own, small table.
 * Where: kept from the import on, since later low numbers may be taken, and looked after when a port opens; filled and
 *     emptied by the worker.
 * Invariants: an application may close our numbers behind our back (a daemon closes all), and then they become its own.
 *     So a number is replaced or closed only after the kernel has confirmed that it is what was put there: the cookie of a
 *     socket belongs to no other, ever (SO_COOKIE). The child asks the same before it receives. What is not confirmed is
 *     left alone. A message is made for one attempt: a process that was forked without our handlers finds nothing there.
 * Deliberately absent: a mailbox that is needed. Where none is free, or anything is refused, clone copies the table. */
#include "mailbox.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sys.h"

/* Programs lay out 3 to 9 for other programs. */
enum { MAILBOX_FROM = 10 };

struct mailbox {
    int32_t number;                  /* -1: lost */
    uint64_t cookie;                 /* of the socket that was put there; 0 is the placeholder */
    const struct avf_report *report; /* of the attempt that has it, or NULL */
};

/* guarded by lock */
static struct mailbox boxes[AVF_MAILBOXES] = {[0 ... AVF_MAILBOXES - 1] = {.number = -1}};
static int32_t placeholder = -1; /* one more duplicate, of which the others are made */
static uint64_t placeholder_cookie;
static int are_kept; /* somebody has asked for it */

/* THREAD any. RETURNS 0, -ENOTSOCK or -EBADF where it is no socket, or what a filter says. */
static int mailbox_cookie(int fd, uint64_t *ret_cookie)
{
    socklen_t size = sizeof *ret_cookie;
    return getsockopt(fd, SOL_SOCKET, SO_COOKIE, ret_cookie, &size) < 0 ? -errno : 0;
}

/* THREAD any. Whether a number is that socket. RETURNS -errno where nobody may ask. */
static int mailbox_confirm(int fd, uint64_t cookie)
{
    uint64_t found;
    int error = fd < 0 ? -EBADF : mailbox_cookie(fd, &found);
    if (error == 0)
        return found == cookie;
    return error == -ENOTSOCK || error == -EBADF ? 0 : error;
}

/* THREAD any, under the lock. RETURNS 1 if the box is what was put there, 0 and forgets its number if it is not. */
static int mailbox_check(struct mailbox *box)
{
    int same = mailbox_confirm(box->number, box->cookie ? box->cookie : placeholder_cookie);
    if (same == 0)
        box->number = -1;
    return same;
}

/* THREAD any, in the gate, under the lock. The placeholder, at a number that is ours. RETURNS 0 or -errno. */
static int mailbox_open_placeholder(void)
{
    int same = mailbox_confirm(placeholder, placeholder_cookie), from = -1;
    if (same != 0)
        return same < 0 ? same : 0;
    for (int i = 0; i < AVF_MAILBOXES && from < 0; i++)
        if (!boxes[i].report && mailbox_check(&boxes[i]) > 0)
            from = boxes[i].number;
    int made = from < 0 ? socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0) : -1;
    if (from < 0 && made < 0)
        return -errno;
    placeholder = fcntl(from < 0 ? made : from, F_DUPFD_CLOEXEC, MAILBOX_FROM);
    int error = placeholder < 0 ? -errno : mailbox_cookie(placeholder, &placeholder_cookie);
    if (made >= 0)
        close(made);
    if (error < 0 && placeholder >= 0) {
        close(placeholder);
        placeholder = -1;
    }
    return error;
}

/* THREAD any, in the gate, under the lock. */
void avf_mailbox_open(void)
{
    if (!are_kept)
        return;
    for (int i = 0; i < AVF_MAILBOXES; i++)
        if (!boxes[i].report)
            (void)mailbox_check(&boxes[i]);
    if (mailbox_open_placeholder() < 0)
        return;
    for (int i = 0; i < AVF_MAILBOXES; i++) {
        if (boxes[i].report || boxes[i].number >= 0)
            continue;
        int number = fcntl(placeholder, F_DUPFD_CLOEXEC, MAILBOX_FROM);
        if (number >= AVF_UNSHARE_BELOW)
            close(number);
        if (number < 0 || number >= AVF_UNSHARE_BELOW)
            return;
        boxes[i].number = number;
    }
}

/* THREAD worker, under the lock. Whether nobody needs what is in there: a child that has its own table does not, however
 * long its exec takes. One that failed does, since it may be made again. */
static int mailbox_is_free(const struct mailbox *box)
{
    if (box->number < 0 || !box->report)
        return box->number >= 0;
    int32_t step = box->report->step;
    return box->report->error == 0 && step != AVF_STEP_NONE && step != AVF_STEP_CLONE &&
           step != AVF_STEP_UNSHARE_FDS;
}

/* THREAD worker, in the gate. Puts a socket into a free mailbox. RETURNS which, or -errno. */
static int mailbox_fill(int socket, const struct avf_report *report, struct avf_child_message *ret_message)
{
    uint64_t cookie;
    int result = mailbox_cookie(socket, &cookie);
    if (result < 0)
        return result;
    result = -EAGAIN;
    avf_lock();
    for (int i = 0; i < AVF_MAILBOXES && result == -EAGAIN; i++) {
        struct mailbox *box = &boxes[i];
        int same = mailbox_is_free(box) ? mailbox_check(box) : 0;
        if (same == 0)
            continue;
        result = same < 0 ? same : dup3(socket, box->number, O_CLOEXEC) < 0 ? -errno : i;
        if (result < 0)
            continue;
        box->report = report;
        box->cookie = ret_message->cookie = cookie;
        ret_message->fd = box->number;
    }
    avf_unlock();
    return result;
}

/* THREAD any, in the gate, under the lock. What is no longer ours is forgotten; what cannot become the placeholder again is closed. */
static void mailbox_empty(struct mailbox *box)
{
    if (mailbox_check(box) != 0 &&
        (mailbox_open_placeholder() < 0 || dup3(placeholder, box->number, O_CLOEXEC) < 0)) {
        close(box->number);
        box->number = -1;
    }
    box->cookie = 0;
    box->report = NULL;
}

/* THREAD worker, in the gate. Sends the sources that sit high. RETURNS 0 or -errno. */
static int mailbox_send(int32_t *sources, uint32_t count, uint32_t first, const struct avf_report *report,
                        struct avf_mail *mail)
{
    int32_t numbers[AVF_MESSAGE_FILES];
    uint32_t sent = 0;
    struct avf_message made = {-1, -1};
    for (uint32_t i = 0; i < count; i++) {
        uint32_t known = 0; /* stderr=STDOUT is the same number again */
        if (sources[i] < AVF_UNSHARE_BELOW)
            continue;
        while (known < sent && known < 3 && numbers[known] != sources[i])
            known++;
        if (known == sent || known == 3)
            known = sent;
        if (known == AVF_MESSAGE_FILES)
            return -E2BIG;
        if (known == sent)
            numbers[sent++] = sources[i];
        sources[i] = AVF_SOURCE_RECEIVED - (int32_t)(first + known);
    }
    if (sent == 0)
        return 0;
    int error = avf_message_send(numbers, sent, &made);
    if (error < 0)
        return error;
    mail->box[1] = mailbox_fill(made.out, report, &mail->message[1]);
    mail->message[1].count = sent;
    avf_message_discard(&made); /* the mailbox holds the end that has the message */
    return mail->box[1] < 0 ? mail->box[1] : 0;
}

/* THREAD worker. */
int avf_mailbox_post(const struct avf_files *files, int32_t *sources, uint32_t count,
                     const struct avf_report *report, struct avf_mail *ret_mail)
{
    int error = 0, wanted = files->message_fd >= AVF_UNSHARE_BELOW;
    *ret_mail = (struct avf_mail){
        .message = {{.fd = files->message_fd, .count = files->message_count}, {.fd = -1}}, .box = {-1, -1}};
    for (uint32_t i = 0; i < count && !wanted; i++)
        wanted = sources[i] >= AVF_UNSHARE_BELOW;
    if (!wanted)
        return 0;
    if (!report)
        return -EAGAIN;
    avf_gate_enter();
    if (files->message_fd >= AVF_UNSHARE_BELOW) {
        ret_mail->box[0] = mailbox_fill(files->message_fd, report, &ret_mail->message[0]);
        error = ret_mail->box[0] < 0 ? ret_mail->box[0] : 0;
    }
    if (error == 0)
        error = mailbox_send(sources, count, files->message_count, report, ret_mail);
    avf_gate_leave();
    return error;
}

/* THREAD worker. */
int avf_mailbox_clear(struct avf_mail *mail)
{
    if (mail->box[0] < 0 && mail->box[1] < 0)
        return 0;
    avf_gate_enter();
    avf_lock();
    for (int i = 0; i < 2; i++)
        if (mail->box[i] >= 0 &&
            boxes[mail->box[i]].cookie == mail->message[i].cookie) /* else another attempt has it */
            mailbox_empty(&boxes[mail->box[i]]);
    avf_unlock();
    avf_gate_leave();
    mail->box[0] = mail->box[1] = -1;
    return 1;
}

/* THREAD any, under the lock. */
int avf_mailbox_is_ours(int number)
{
    for (int i = 0; i < AVF_MAILBOXES; i++)
        if (boxes[i].number == number)
            return mailbox_check(&boxes[i]) > 0;
    return number >= 0 && number == placeholder && mailbox_confirm(placeholder, placeholder_cookie) > 0;
}

/* THREAD any, in the child of a fork. */
void avf_mailbox_after_fork(void)
{
    for (int i = 0; i < AVF_MAILBOXES; i++)
        if (boxes[i].report)
            mailbox_empty(&boxes[i]);
}

/* THREAD any. */
void avf_keep_mailboxes(void)
{
    avf_gate_enter();
    avf_lock();
    are_kept = 1;
    avf_mailbox_open();
    avf_unlock();
    avf_gate_leave();
}
