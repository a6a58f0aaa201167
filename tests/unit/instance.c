/* SPDX-License-Identifier: Apache-2.0 */
/*
 * instance.c - sections become instances: order of start and stop, cycles,
 * failures half way, and the message for everything that silo.ini can get
 * wrong.  The plugin is content-test.c.
 */
#include "core.h"
#include "tap.h"

#include <fcntl.h>

#define CONTENT_ONLY WIRE (SILO_KIND_CONTENT)

struct fixture {
	char dir[32];
	char ini[64];
	char trace[64];
	char folder[4000]; /* of plugins */
};

static void
write_ini (const struct fixture *f, const char *text)
{
	int fd = open (f->ini, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || dprintf (fd, "%s", text) < 0 || close (fd) < 0)
		tap_bail ("%s: %s", f->ini, strerror (errno));
}

/* What was traced since the last call. */
static const char *
take_trace (const struct fixture *f)
{
	static char text[2000];

	text[0] = 0;
	int fd = open (f->trace, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return text;
	ssize_t n = read (fd, text, sizeof (text) - 1);
	text[n > 0 ? n : 0] = 0;
	close (fd);
	unlink (f->trace);
	return text;
}

/* Load with this silo.ini; "" or the message without the file's path. */
static const char *
load (const struct fixture *f, const char *text, unsigned kinds, struct core **ret)
{
	static struct silo_error err;

	*ret = NULL;
	memset (&err, 0, sizeof (err));
	write_ini (f, text);
	int r = core_new (f->ini, CORE_NO_STATE, ret, &err);
	if (r == 0)
		r = wiring_load (*ret, kinds, &err);
	if (r == 0)
		return "";
	core_close (*ret);
	*ret = NULL;
	size_t n = strlen (f->ini);
	return strncmp (err.msg, f->ini, n) == 0 ? err.msg + n : err.msg;
}

static void
test_order (const struct fixture *f)
{
	struct silo_error err = { 0 };
	struct core *core;

	tap_is_str (load (f,
			  "[silo]\nstate = .\ncontent = a\n"
			  "[content.a]\nplugin = test\nupper = b\ntrace = trace\n"
			  "[content.b]\nplugin = test\nupper = test\ntrace = trace\n"
			  "[content.test]\ntrace = trace\n",
			  CONTENT_ONLY, &core),
		    "", "a chain of three instances of one plugin");
	if (!core)
		return;
	tap_is_str (core->settings->state, f->dir, "a relative state folder is beside silo.ini");
	tap_is_str (take_trace (f), "init content.test\ninit content.b\ninit content.a\n",
		    "what is used is made first");
	tap_is_int (wiring_start (core, &err), 0, "starts");
	tap_is_str (take_trace (f), "start content.test\nstart content.b\nstart content.a\n",
		    "and is started first");
	tap_ok (core->wiring.content && core->wiring.content->n_uses == 1 &&
		    core->wiring.content->uses[0] == core->wiring.all.item[1],
		"an instance knows what it uses");
	core_close (core);
	tap_is_str (take_trace (f),
		    "stop content.a\nstop content.b\nstop content.test\n"
		    "destroy content.a\ndestroy content.b\ndestroy content.test\n",
		    "everything ends backwards");
}

static void
test_shared (const struct fixture *f)
{
	struct core *core;

	tap_is_str (load (f,
			  "[silo]\ncontent = a\n[content.a]\nplugin = test\nupper = test\n"
			  "[content.c]\nplugin = test\nupper = test\n",
			  CONTENT_ONLY, &core),
		    "", "a section that nothing uses");
	tap_is_int (core ? (int64_t) core->wiring.all.n : 0, 2, "is checked but not made");
	core_close (core);
}

static void
test_failures (const struct fixture *f)
{
	static const char chain[] = "[silo]\nstate = .\ncontent = a\n"
				    "[content.a]\nplugin = test\nupper = b\ntrace = trace\n"
				    "fail = %s\n"
				    "[content.b]\nplugin = test\ntrace = trace\n";
	char text[400], want[200];
	struct silo_error err = { 0 };
	struct core *core;

	snprintf (text, sizeof (text), chain, "init");
	tap_is_str (load (f, text, CONTENT_ONLY, &core), ":4: [content.a]: told to fail",
		    "init fails: the message names the section");
	tap_is_str (take_trace (f), "init content.b\ninit content.a\ndestroy content.b\n",
		    "and only what was made is destroyed");

	snprintf (text, sizeof (text), chain, "start");
	tap_is_str (load (f, text, CONTENT_ONLY, &core), "", "start will fail");
	tap_is_int (wiring_start (core, &err), SILO_UNAVAILABLE, "the plugin's code is kept");
	snprintf (want, sizeof (want), "%s:4: [content.a]: told to fail", f->ini);
	tap_is_str (err.msg, want, "its message has the section in front");
	take_trace (f);
	core_close (core);
	tap_is_str (take_trace (f), "destroy content.a\ndestroy content.b\n",
		    "what had started was stopped already");

	snprintf (text, sizeof (text), chain, "mute");
	load (f, text, CONTENT_ONLY, &core);
	tap_is_int (wiring_start (core, &err), SILO_INTERNAL, "a plugin that does not say why");
	snprintf (want, sizeof (want), "%s:4: [content.a]: start failed and did not say why",
		  f->ini);
	tap_is_str (err.msg, want, "is not passed on without a message");
	core_close (core);
	take_trace (f);
}

static void
test_bad (const struct fixture *f)
{
	static const struct {
		const char *what, *text, *message;
	} cases[] = {
		{ "a cycle",
		  "[silo]\ncontent = a\n[content.a]\nplugin = test\nupper = b\n"
		  "[content.b]\nplugin = test\nupper = a\n",
		  ":8: [content.b] uses content.a, which needs it itself: content.a <- content.b "
		  "(line 6) <- content.a (line 3)" },
		{ "an instance that uses itself",
		  "[silo]\ncontent = test\n[content.test]\nupper = test\n",
		  ":4: [content.test] uses content.test, which needs it itself: content.test <- "
		  "content.test (line 3)" },
		{ "an unknown key in [silo]", "[silo]\ncontnet = test\n",
		  ":2: [silo] contnet: unknown key, did you mean content?" },
		{ "an unknown key of a plugin",
		  "[silo]\ncontent = test\n[content.test]\nuper = x\n",
		  ":4: [content.test] uper: unknown key, did you mean upper?" },
		{ "an unknown key where nothing is used",
		  "[silo]\ncontent = test\n[content.other]\nplugin = test\nuper = x\n",
		  ":5: [content.other] uper: unknown key, did you mean upper?" },
		{ "an unknown kind", "[silo]\ncontent = test\n[contnet.test]\n",
		  ":3: [contnet.test]: unknown section, did you mean [content.test]?" },
		{ "a misspelt [silo]", "[sillo]\ncontent = test\n",
		  ":1: [sillo]: unknown section, did you mean [silo]?" },
		{ "a section of nothing", "[logging]\nlevel = 1\n",
		  ":1: [logging]: unknown section, expected [silo] or [KIND.NAME] with a kind of "
		  "transport, storage, content, image, rootfs or container" },
		{ "a section without instance", "[silo]\ncontent = test\n[content]\n",
		  ":3: [content]: expected [content.NAME] with a name of 1 to 32 of a-z, 0-9, _ "
		  "and -" },
		{ "a name that is none", "[silo]\ncontent = Te/st\n",
		  ":2: \"Te/st\": expected the name of a content instance: 1 to 32 of a-z, 0-9, "
		  "_ and -" },
		{ "a path that depends on the working folder",
		  "[silo]\ncontent = a\n[content.a]\nplugin = ./a.so\n",
		  ":4: plugin ./a.so: expected a name or an absolute path" },
		{ "no name", "[silo]\ncontent =\n", ":2: [silo] content: expected a name" },
	};

	for (size_t i = 0; i < ARRAY_SIZE (cases); i++) {
		struct core *core;
		tap_is_str (load (f, cases[i].text, CONTENT_ONLY, &core), cases[i].message, "%s",
			    cases[i].what);
		core_close (core);
	}
}

static void
test_missing (const struct fixture *f)
{
	struct core *core;
	char want[4200];

	snprintf (want, sizeof (want), ":2: there is no content plugin \"tset\" in %.100s",
		  f->folder);
	const char *message = load (f, "[silo]\ncontent = tset\n", CONTENT_ONLY, &core);
	tap_ok (strncmp (message, want, strlen (want)) == 0, "a plugin that is not there: %s",
		message);
	message =
	    load (f, "[silo]\ncontent = a\n[content.a]\nplugin = nope\n", CONTENT_ONLY, &core);
	tap_ok (strncmp (message, ":4: there is no", 15) == 0, "names the line of `plugin`: %s",
		message);
	message =
	    load (f, "[silo]\ncontent = test\n[content.test]\nupper = nope\n", CONTENT_ONLY, &core);
	tap_ok (strncmp (message, ":4: there is no", 15) == 0, "or of the option: %s", message);

	tap_is_str (load (f, "[silo]\ncontent = test\n[rootfs.nope]\n", CONTENT_ONLY, &core), "",
		    "an empty section of a plugin that is not installed is allowed");
	core_close (core);
	message = load (f, "[silo]\ncontent = test\n[rootfs.nope]\na = 1\n", CONTENT_ONLY, &core);
	tap_ok (strncmp (message, ":3: there is no rootfs plugin", 29) == 0,
		"one with keys is not: %s", message);

	message =
	    load (f, "[silo]\ncontent = test\n", CONTENT_ONLY | WIRE (SILO_KIND_ROOTFS), &core);
	tap_ok (strncmp (message, ": no rootfs plugin is installed in ", 35) == 0,
		"no plugin of a kind at all: %s", message);
	message = load (f, "[silo]\ncontent = test\nrootfs = erofs\n",
			CONTENT_ONLY | WIRE (SILO_KIND_ROOTFS), &core);
	tap_ok (strncmp (message, ":3: there is no rootfs plugin \"erofs\"", 36) == 0,
		"one that was asked for: %s", message);
}

static void
test_add (const struct fixture *f)
{
	static const char *const good[] = { "fail = none", "upper=test", NULL };
	static const char *const bad[] = { "cut = no", "fial = none", NULL };
	static const char *const no_pair[] = { "fail", NULL };
	struct silo_instance *instance = NULL;
	struct silo_error err = { 0 };
	struct core *core;

	if (core_bare (f->dir, &core, &err) < 0)
		tap_bail ("%s", err.msg);
	tap_is_int (wiring_add (core, SILO_KIND_CONTENT, "test", bad, &instance, &err),
		    SILO_INVALID, "an unknown option");
	tap_is_str (err.msg, "arguments:3: [content.test] fial: unknown key, did you mean fail?",
		    "is named");
	tap_is_int (wiring_add (core, SILO_KIND_CONTENT, "test", no_pair, &instance, &err),
		    SILO_INVALID, "a text without =");
	tap_is_int (wiring_add (core, SILO_KIND_CONTENT, "test", NULL, &instance, &err), 0,
		    "an instance without silo.ini");
	tap_is_int (wiring_add (core, SILO_KIND_CONTENT, "test", good, &instance, &err), 0,
		    "another that uses it");
	tap_ok (instance && instance->n_uses == 1 && instance->uses[0] == core->wiring.all.item[0],
		"and not a third one");
	tap_is_int (wiring_start (core, &err), 0, "start both");
	core_close (core);
}

int
main (void)
{
	struct fixture f = { .dir = "/tmp/silo-instance-XXXXXX" };

	if (!mkdtemp (f.dir))
		tap_bail ("%s: %s", f.dir, strerror (errno));
	snprintf (f.ini, sizeof (f.ini), "%s/silo.ini", f.dir);
	snprintf (f.trace, sizeof (f.trace), "%s/trace", f.dir);
	snprintf (f.folder, sizeof (f.folder), "%s/tests/unit/.libs", getenv ("SILO_TEST_BUILD"));
	setenv ("SILO_PLUGIN_PATH", f.folder, 1);

	test_order (&f);
	test_shared (&f);
	test_failures (&f);
	test_bad (&f);
	test_missing (&f);
	test_add (&f);
	unlink (f.ini);
	tap_is_int (rmdir (f.dir), 0, "nothing else was written");
	return tap_done ();
}
