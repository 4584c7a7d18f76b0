/* DESIGN: what is handed to the launcher.
 *
 * What: the launcher's file is opened here, before the child changes anything, so that neither its new user nor its
 *     new root need reach it; and the plan is copied into a memfd that nobody can change any more, the child included.
 * Where: the worker.
 * Invariants: both descriptors are CLOEXEC from birth; the vfork child takes that from its own copy of the memfd. The
 *     launcher gets no argument but two numbers, and no environment.
 * Deliberately absent: a launcher that stays open between spawns. It would be one descriptor more in every process,
 *     and an upgrade of the package under a running process is told by the plan's version. */
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "sys.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U /* Linux 6.3 */
#endif

static char launcher_path[4096]; /* set once, before the first spawn */

/* THREAD any. */
int32_t avf_set_launcher(const char *path)
{
    size_t length = strlen(path);
    if (length >= sizeof launcher_path)
        return -ENAMETOOLONG;
    memcpy(launcher_path, path, length + 1);
    return 0;
}

/* THREAD any. On a file system mounted noexec the answer is EACCES. */
int avf_launch_check(void)
{
    return faccessat(AT_FDCWD, launcher_path, X_OK, AT_EACCESS) < 0 ? -errno : 0;
}

/* THREAD worker. */
int avf_launch_open(void)
{
    int fd = open(launcher_path, O_PATH | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* THREAD worker. */
void avf_launch_rights(struct avf_rights *ret_rights)
{
    struct sys_capabilities sets;
    *ret_rights = (struct avf_rights){0};
    int of_root = geteuid() == 0 && (prctl(PR_GET_SECUREBITS) & 1 /* SECBIT_NOROOT */) == 0;
    if (of_root || sys_capabilities(SYS_capget, &sets) < 0)
        return;
    ret_rights->effective = sys_capabilities_get(&sets, SYS_CAP_EFFECTIVE);
    ret_rights->permitted = sys_capabilities_get(&sets, SYS_CAP_PERMITTED);
    ret_rights->inheritable = sys_capabilities_get(&sets, SYS_CAP_INHERITABLE);
    for (int capability = 0; capability < 64; capability++)
        if (ret_rights->permitted >> capability & 1 &&
            prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, capability, 0, 0) == 0)
            ret_rights->lent |= 1ULL << capability;
}

/* THREAD worker. */
static int launch_write(int fd, const void *from, size_t size)
{
    for (const char *at = from; size > 0;) {
        ssize_t written = write(fd, at, size);
        if (written < 0 && errno != EINTR)
            return -errno;
        at += written < 0 ? 0 : written;
        size -= written < 0 ? 0 : (size_t)written;
    }
    return 0;
}

/* THREAD worker, in the gate. */
int avf_launch_create(void)
{
    int fd = memfd_create("aiovfork", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL)
        fd = memfd_create("aiovfork", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    return fd < 0 ? -errno : fd;
}

/* THREAD worker. */
int avf_launch_fill(int fd, const avf_plan *plan, uint64_t sigmask, int32_t parent_pid,
                    const struct avf_rights *rights)
{
    const struct avf_launch launch = {AVF_LAUNCH_MAGIC, sigmask, parent_pid, plan->size, *rights};
    int error = launch_write(fd, &launch, sizeof launch);
    if (error == 0)
        error = launch_write(fd, plan, plan->size);
    if (error == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
        error = -errno;
    return error;
}

/* THREAD worker. */
int avf_launch_has_run_exec(int32_t pid)
{
    char path[32], name[32];
    snprintf(path, sizeof path, "/proc/%d/comm", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t length = read(fd, name, sizeof name);
    close(fd);
    return length > 0 && ((size_t)length != sizeof AVF_LAUNCHER_NAME ||
                          memcmp(name, AVF_LAUNCHER_NAME "\n", sizeof AVF_LAUNCHER_NAME) != 0);
}
