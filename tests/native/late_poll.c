/* A poll() whose caller loses the CPU between the looks at its two descriptors: it hears of the second one, and nothing of
 * what has happened at the first meanwhile. */
#define _GNU_SOURCE
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

int poll(struct pollfd *fds, nfds_t count, int timeout)
{
    struct timespec limit = {timeout / 1000, timeout % 1000 * 1000000L};
    nfds_t unseen = count == 2;
    if (unseen)
        fds[0].revents = 0;
    return (int)syscall(SYS_ppoll, fds + unseen, count - unseen, timeout < 0 ? (void *)0 : &limit, (void *)0,
                        8);
}
