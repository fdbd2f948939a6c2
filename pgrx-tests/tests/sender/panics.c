/*
 * No time of day for threads whose name is the content of the file broken_clock in the working directory: what asks for it
 * without looking at the result goes wrong.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int
is_broken(void)
{
	char		name[16] = "";
	char		broken[16] = "";
	int			file = open("broken_clock", O_RDONLY | O_CLOEXEC);
	ssize_t		length;

	if (file < 0)
		return 0;
	length = read(file, broken, sizeof(broken) - 1);
	close(file);
	prctl(PR_GET_NAME, name);
	return length > 0 && strcmp(name, broken) == 0;
}

int
clock_gettime(clockid_t clock, struct timespec *now)
{
	if (clock == CLOCK_REALTIME && is_broken())
	{
		errno = EINVAL;
		return -1;
	}
	return syscall(SYS_clock_gettime, clock, now);
}
