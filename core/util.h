/* SPDX-License-Identifier: Apache-2.0 */
/*
 * util.h - cleanup attributes and small helpers of the core.  Header only.
 */
#ifndef UTIL_H
#define UTIL_H

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <jansson.h>
#include <silo/error.h>
#include <silo/bytes.h>

static inline void
util_free (void *p)
{
	free (*(void **) p);
}

static inline void
util_close (int *fd)
{
	if (*fd >= 0) {
		int saved = errno;
		close (*fd);
		errno = saved;
	}
}

static inline void
util_fclose (FILE **f)
{
	if (*f)
		fclose (*f);
}

static inline void
util_closedir (DIR **d)
{
	if (*d)
		closedir (*d);
}

static inline void
util_unlock (pthread_mutex_t **m)
{
	if (*m)
		pthread_mutex_unlock (*m);
}

static inline void
util_decref (json_t **j)
{
	json_decref (*j);
}

#define _cleanup_free_     SILO_CLEANUP (util_free)
#define _cleanup_close_    SILO_CLEANUP (util_close)
#define _cleanup_fclose_   SILO_CLEANUP (util_fclose)
#define _cleanup_closedir_ SILO_CLEANUP (util_closedir)
#define _cleanup_buf_      SILO_CLEANUP (silo_buf_free)
#define _cleanup_json_     SILO_CLEANUP (util_decref)

/* Take a value out of a variable that has a cleanup attribute, to keep it. */
#define silo_steal(p)                             \
	({                                        \
		__typeof__ (*(p)) stolen_ = *(p); \
		*(p) = (__typeof__ (*(p))) 0;     \
		stolen_;                          \
	})
#define silo_steal_fd(p)            \
	({                          \
		int stolen_ = *(p); \
		*(p) = -1;          \
		stolen_;            \
	})

/* Hold a mutex until the end of the scope. */
#define scope_lock_name_(line) scope_lock_##line
#define scope_lock_at_(m, line)    \
	SILO_CLEANUP (util_unlock) \
	pthread_mutex_t *scope_lock_name_ (line) SILO_UNUSED = (pthread_mutex_lock (m), (m))
#define scope_lock(m) scope_lock_at_ (m, __LINE__)

#define container_of(ptr, type, member) ((type *) ((char *) (ptr) -offsetof (type, member)))
#define ARRAY_SIZE(a)                   (sizeof (a) / sizeof ((a)[0]))

/* strdup that reports. */
static inline int
util_strdup (const char *text, char **ret, struct silo_error *err)
{
	char *copy = strdup (text ? text : "");
	if (!copy)
		return silo_fail_nomem (err);
	*ret = copy;
	return 0;
}

#endif
