/* Signal handlers that know in which process they run, and a thread that sends storms of signals.
 *
 * The counters are plain memory, so a child that shares its parent's memory and ran a handler there is seen. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/time.h>
#include <unistd.h>

static pid_t owner;
static atomic_long own, foreign;
static atomic_int storming;
static pthread_t storm;
static int storm_signal;

static void count(int signal)
{
    (void)signal;
    atomic_fetch_add(getpid() == owner ? &own : &foreign, 1);
}

/* Installs the counting handler. Returns 0 or -1. */
int handlers_install(int signal)
{
    struct sigaction action = {.sa_handler = count, .sa_flags = SA_RESTART};
    owner = getpid();
    return sigaction(signal, &action, NULL);
}

long handlers_own(void)
{
    return own;
}

long handlers_foreign(void)
{
    return foreign;
}

static void *send_storm(void *unused)
{
    (void)unused;
    while (storming) {
        kill(0, storm_signal); /* the whole group: the children too */
        usleep(200);
    }
    return NULL;
}

/* Sends a signal to the process group, 5000 times a second, and starts a 1 kHz interval timer. */
int handlers_storm_start(int signal)
{
    struct itimerval kilohertz = {{0, 1000}, {0, 1000}};
    storming = 1;
    storm_signal = signal;
    if (pthread_create(&storm, NULL, send_storm, NULL) != 0)
        return -1;
    return setitimer(ITIMER_REAL, &kilohertz, NULL);
}

void handlers_storm_stop(void)
{
    struct itimerval never = {0};
    setitimer(ITIMER_REAL, &never, NULL);
    storming = 0;
    pthread_join(storm, NULL);
}
