/* DESIGN: a port is born.
 *
 * What: opens a port, and what the collector waits with: a descriptor that the first captured child opened would look
 *     like a leak to whoever counts around one. Its end is in ending.c.
 * Where: the loop's thread. */
#include <errno.h>
#include <stdlib.h>

#include "collector.h"
#include "mailbox.h"
#include "port.h"

/* THREAD loop. */
int32_t avf_port_open(avf_port **ret_port)
{
    struct avf_port *port = calloc(1, sizeof *port);
    if (!port)
        return -ENOMEM;
    port->epoll_fd = port->event_fd = port->timer_fd = -1;
    port->references = 1;
    avf_gate_enter();
    avf_lock();
    avf_mailbox_open(); /* first: there may be few low numbers */
    avf_unlock();
    int error = avf_port_open_fds(port);
    avf_lock();
    if (error == 0)
        error = avf_state.fork_is_watched ? avf_window_open() : -ENOMEM;
    if (error == 0)
        error = avf_collector_open();
    if (error == 0) {
        port->next = avf_state.ports;
        if (port->next)
            port->next->previous = port;
        avf_state.ports = port;
    } else {
        avf_port_close_fds(port);
    }
    avf_unlock();
    avf_gate_leave();
    if (error < 0) {
        free(port);
        return error;
    }
    *ret_port = port;
    return 0;
}
