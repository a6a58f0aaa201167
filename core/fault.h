/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault.h - named places at which a test lets the process be killed or an
 * operation fail.  Only builds that were configured with --enable-faults have
 * them; in all others they are nothing at all.
 *
 *     SILO_FAULT=POINT[@N][=kill|error|enospc|wait]   the N-th pass, default the first, kill
 *     SILO_FAULT_GATE=FIFO                            where to wait, until its writer closes it
 *     SILO_FAULT_LOG=FILE                             append the name of each point passed
 *
 * An import goes through these, in this order (the first four often):
 *   object-staged  the bytes are written, under no name yet
 *   object-stored  they have their name
 *   layer-written  a layer record is complete, under a temporary name
 *   layer-renamed  it has its name
 *   sync           before the content store makes everything safe
 *   synced         after that
 *   meta-written   the metadata file is complete, under a temporary name
 *   meta-renamed   it has its name
 *   record         before the image record is stored or replaced
 *   recorded       after that
 *
 * And `silo rm` and `silo gc`, what is not there being left out:
 *   rm-drop        before an image record is dropped
 *   rm-dropped     after that
 *   gc-begin       what is live is known, nothing is removed yet
 *   gc-new         before an unfinished metadata file goes
 *   gc-meta        before a metadata file goes
 *   gc-layer       before a layer record or a lock goes
 *   gc-settle      before the file system is told to remember that
 *   gc-object      before an object goes
 *   gc-temp        before a folder of STATE/tmp goes
 *
 * And `silo fsck`:
 *   fsck-remove    before a damaged object or layer record goes
 *   fsck-fetch     before an image is fetched again
 */
#ifndef FAULT_H
#define FAULT_H

#include <silo/error.h>

#ifdef SILO_FAULTS
/* What `silo --version` adds. */
#define FAULT_NOTE ", built with fault points"
/* 0, or the error that $SILO_FAULT asks for at this point. */
int fault_at (const char *point, struct silo_error *err);
#else
#define FAULT_NOTE ""
static inline int
fault_at (const char *point, struct silo_error *err)
{
	(void) point;
	(void) err;
	return 0;
}
#endif

#endif
