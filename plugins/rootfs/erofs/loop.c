/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop.c - a loop device for kernels that mount EROFS from block devices only
 * (before Linux 6.12).  Called with erofs->lock held.
 */
#include "erofs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
#include <linux/loop.h>
#include <sys/ioctl.h>

/* How often to ask for another device when somebody was quicker. */
#define LOOP_TRIES 64

int
loop_attach (int file, int *ret_fd, char ret_path[32], struct silo_error *err)
{
	const struct loop_config config = {
		.fd = (unsigned) file,
		.block_size = 4096,
		.info = { .lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR },
	};
	int control = open ("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (control < 0)
		return silo_fail_sys (err, errno, "/dev/loop-control");

	for (int i = 0; i < LOOP_TRIES; i++) {
		int n = ioctl (control, LOOP_CTL_GET_FREE);
		if (n < 0)
			break;
		snprintf (ret_path, 32, "/dev/loop%d", n);
		int fd = open (ret_path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			break;
		if (ioctl (fd, LOOP_CONFIGURE, &config) == 0) {
			close (control);
			*ret_fd = fd;
			return 0;
		}
		int sys = errno;
		close (fd);
		errno = sys;
		if (sys != EBUSY)
			break;
	}

	int sys = errno;
	close (control);
	return silo_fail_sys (err, sys, "loop device for a metadata file");
}
