/* One turn at one pipe of a capture. */
#ifndef AVF_PIPES_H
#define AVF_PIPES_H

#include "capture.h"

/* What became of an end: there may be more; it has ended; there was more than the limit. */
enum avf_pipe_result { AVF_PIPE_GO_ON, AVF_PIPE_ENDED, AVF_PIPE_LIMITED };

/* THREAD collector. RETURNS an avf_pipe_result or -errno. `hangup`: nobody has the other side open now. */
int avf_pipe_read(struct avf_captured *c, int stream, int fd, int hangup);
int avf_pipe_write(struct avf_captured *c, int fd, int hangup);

#endif
