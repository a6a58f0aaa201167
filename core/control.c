/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control.c - the daemon's side of STATE/silo.sock, for the verbs that need it:
 * status, ps, logs, cancel.  Who may open the socket is the owner of the state
 * folder (mode 0600 in a folder of mode 0700).  Loop thread; what reads storage
 * does so in a pool job.
 */
#include "engine.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define REQUEST_MAX 65536
#define CLIENTS_MAX 64
#define ANSWER_MAX  (256 * 1024 * 1024)

struct control {
	struct core *core;
	struct loop_io io;
	struct client *clients;
	int n_clients;
	int spare; /* given up to take a connection, and end it, when descriptors have run out */
	char path[108];
};

/* One connection; it asks one question after the other. */
struct client {
	struct control *control;
	struct client *next, **link;
	struct loop_io io;
	char in[REQUEST_MAX];
	size_t n_in;
	struct silo_buf out;
	size_t sent;
	bool busy, gone; /* a pool job answers; the connection has ended meanwhile */
	struct pool_job job;
	json_t *request, *live, *answer;
	struct silo_error error;
};

static void
client_free (struct client *client)
{
	struct control *control = client->control;
	int fd = client->io.fd;

	if (fd >= 0) {
		loop_unwatch (control->core->loop, &client->io);
		close (fd);
	}
	if (client->busy) {
		client->gone = true;
		return;
	}
	*client->link = client->next;
	if (client->next)
		client->next->link = client->link;
	control->n_clients--;
	json_decref (client->request);
	json_decref (client->live);
	json_decref (client->answer);
	silo_buf_free (&client->out);
	free (client);
}

/* -- answers ------------------------------------------------------------------------- */

static void
client_flush (struct client *client)
{
	while (client->sent < client->out.len) {
		ssize_t n = send (client->io.fd, client->out.data + client->sent,
				  client->out.len - client->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EAGAIN) {
			loop_rewatch (client->control->core->loop, &client->io, EPOLLOUT);
			return;
		}
		if (n < 0) {
			client_free (client);
			return;
		}
		client->sent += (size_t) n;
	}
	silo_buf_free (&client->out);
	client->sent = 0;
	loop_rewatch (client->control->core->loop, &client->io, EPOLLIN);
}

static int
add_text (const char *text, size_t len, void *arg)
{
	return silo_buf_add (arg, text, len, NULL);
}

/* Send client->answer, or client->error. */
static void
client_answer (struct client *client)
{
	json_t *answer = client->answer;

	client->answer = NULL;
	if (!answer) {
		if (!client->error.code)
			silo_fail_nomem (&client->error);
		answer = json_pack ("{s:b, s:i, s:s}", "ok", 0, "code", client->error.code,
				    "message", client->error.msg);
	} else {
		json_object_set_new (answer, "ok", json_true ());
	}
	json_decref (client->request);
	json_decref (client->live);
	client->request = client->live = NULL;
	client->error.code = 0;
	client->out.max = ANSWER_MAX;
	int r = answer ? json_dump_callback (answer, add_text, &client->out, JSON_COMPACT) : -1;
	json_decref (answer);
	if (r < 0 || silo_buf_add (&client->out, "\n", 1, NULL) < 0) {
		client_free (client);
		return;
	}
	client_flush (client);
}

static void
client_done (void *arg)
{
	struct client *client = arg;

	client->busy = false;
	if (client->gone)
		client_free (client);
	else
		client_answer (client);
}

static void
client_run (struct client *client, loop_fn *work)
{
	client->busy = true;
	/* Nothing is read meanwhile; epoll still tells of a hang-up. */
	loop_rewatch (client->control->core->loop, &client->io, 0);
	pool_run (client->control->core->pool, &client->job, work, client_done, client);
}

/* -- the questions ------------------------------------------------------------------------ */

static void
ask_status (struct client *client)
{
	struct core *core = client->control->core;
	struct engine *engine = core->engine;
	int waiting = 0, idle = 0;

	for (struct call *call = engine->queue; call; call = call->queue_next)
		waiting++;
	for (struct worker *worker = engine->workers; worker; worker = worker->next)
		idle += worker->state == WORKER_IDLE;
	client->answer = json_pack (
	    "{s:s, s:i, s:s, s:I, s:b, s:s, s:s, s:s, s:s, s:{s:i, s:i}, s:{s:i, s:i, s:i}}",
	    "version", PACKAGE_VERSION, "pid", (int) getpid (), "state", core->settings->state,
	    "started", (json_int_t) engine->started, "draining",
	    (int) atomic_load (&engine->draining), "storage", core->wiring.storage->name, "content",
	    core->wiring.content->name, "rootfs", core->rootfs->name, "container",
	    core->container->name, "tasks", "live", atomic_load (&engine->n_calls), "waiting",
	    waiting, "workers", "live", engine->n_workers, "idle", idle, "max",
	    engine->max_workers);
	client_answer (client);
}

static const char *
call_state (const struct call *call)
{
	switch (call->step) {
	case CALL_ACCEPT:
	case CALL_WORKER:
		return "queued";
	case CALL_START:
	case CALL_RUN:
		return "running";
	default:
		return "finishing";
	}
}

/* What only the loop knows, taken before the pool job: states of live tasks, workers. */
static json_t *
live_state (struct engine *engine)
{
	json_t *tasks = json_object (), *workers = json_array ();
	char id[24];

	for (struct call *call = engine->calls; call; call = call->next) {
		if (!call->stored)
			continue;
		snprintf (id, sizeof (id), "%" PRId64, call->task->id);
		json_object_set_new (tasks, id, json_string (call_state (call)));
	}
	for (struct worker *worker = engine->workers; worker; worker = worker->next)
		json_array_append_new (
		    workers, json_pack ("{s:s, s:s, s:s, s:I, s:I}", "id", worker->id, "state",
					worker_state_name (worker->state), "image",
					worker->function->image->image.name, "tasks",
					(json_int_t) worker->tasks, "task",
					(json_int_t) (worker->call ? worker->call->task->id : 0)));
	return json_pack ("{s:o, s:o}", "tasks", tasks, "workers", workers);
}

/* JSON strings are UTF-8: what is not is shown with replacement characters. */
static json_t *
json_text (const char *text)
{
	json_t *json = json_string (text);

	return json ? json : json_string ("(not UTF-8)");
}

static json_t *
task_json (const struct silo_record *record)
{
	const struct silo_task *task = &record->task;
	static const char *const states[] = { "queued", "running", "done" };
	const char *state = task->state >= 0 && task->state < 3 ? states[task->state] : "?";
	char digest[SILO_DIGEST_HEX + 1];

	silo_digest_hex (&task->function, digest);
	json_t *json = json_pack (
	    "{s:I, s:s, s:o, s:s, s:o, s:i, s:I, s:I, s:I, s:b}", "id", (json_int_t) task->id,
	    "state", state, "name", json_text (task->name), "function", digest, "image",
	    json_text (task->image), "attempt", (int) task->attempt, "created",
	    (json_int_t) task->created, "started", (json_int_t) task->started, "finished",
	    (json_int_t) task->finished, "detached", !!(task->flags & SILO_TASK_DETACHED));
	if (json && record->result) {
		const struct silo_result *result = record->result;
		json_object_set_new (json, "outcome",
				     json_string (silo_outcome_name (result->outcome)));
		json_object_set_new (json, "exit_code", json_integer (result->exit_code));
		json_object_set_new (json, "type", json_text (result->type));
		json_object_set_new (json, "message", json_text (result->message));
	}
	return json;
}

struct ps {
	json_t *tasks;
	const json_t *live;
};

static int
ps_add (void *arg, const struct silo_record *record)
{
	struct ps *ps = arg;
	json_t *json = task_json (record);
	char id[24];

	snprintf (id, sizeof (id), "%" PRId64, record->task.id);
	json_t *state = json_object_get (ps->live, id);
	if (state && !record->result)
		json_object_set (json, "state", state);
	json_array_append_new (ps->tasks, json);
	return 0;
}

static void
ps_work (void *arg)
{
	struct client *client = arg;
	struct silo_instance *storage = client->control->core->wiring.storage;
	json_int_t limit = json_integer_value (json_object_get (client->request, "limit"));
	struct silo_task_query query = {
		.unfinished = json_is_true (json_object_get (client->request, "unfinished")),
		.limit = limit > 0 ? limit : 50,
	};
	struct ps ps = { json_array (), json_object_get (client->live, "tasks") };

	if (instance_call (storage, storage, task_list, &query, ps_add, &ps, &client->error) < 0) {
		json_decref (ps.tasks);
		return;
	}
	client->answer = json_pack ("{s:o, s:O}", "tasks", ps.tasks, "workers",
				    json_object_get (client->live, "workers"));
}

static void
ask_ps (struct client *client)
{
	client->live = live_state (client->control->core->engine);
	client_run (client, ps_work);
}

static json_t *
base64_json (struct silo_bytes bytes)
{
	_cleanup_buf_ struct silo_buf text = SILO_BUF (ANSWER_MAX);

	if (silo_base64_encode (bytes.data, bytes.len, &text, NULL) < 0)
		return NULL;
	return json_stringn (text.len ? (const char *) text.data : "", text.len);
}

static int
logs_add (void *arg, const struct silo_record *record)
{
	struct client *client = arg;
	const struct silo_result *result = record->result;
	json_t *json = task_json (record);

	if (result) {
		json_object_set_new (json, "traceback", json_text (result->traceback));
		json_object_set_new (json, "stdout", base64_json (result->out));
		json_object_set_new (json, "stderr", base64_json (result->err));
		json_object_set_new (json, "truncated", json_boolean (result->truncated));
		json_object_set_new (
		    json, "timeline",
		    json_loads (result->timeline[0] ? result->timeline : "{}", 0, NULL));
	}
	client->answer = json_pack ("{s:o}", "task", json);
	return 0;
}

static void
logs_work (void *arg)
{
	struct client *client = arg;
	struct silo_instance *storage = client->control->core->wiring.storage;
	json_int_t id = json_integer_value (json_object_get (client->request, "task"));

	instance_call (storage, storage, task_get, id, logs_add, client, &client->error);
}

static void
ask_logs (struct client *client)
{
	client_run (client, logs_work);
}

static void
ask_cancel (struct client *client)
{
	json_int_t id = json_integer_value (json_object_get (client->request, "task"));
	struct call *call = call_find_task (client->control->core->engine, id);

	if (call) {
		call_cancel (call);
		client->answer = json_pack ("{s:I}", "task", id);
	} else {
		silo_fail (&client->error, SILO_NOTFOUND,
			   "task %" PRId64 " does not wait or run: `silo ps` lists tasks",
			   (int64_t) id);
	}
	client_answer (client);
}

static const struct {
	const char *op;
	void (*fn) (struct client *client);
} questions[] = {
	{ "status", ask_status },
	{ "ps", ask_ps },
	{ "logs", ask_logs },
	{ "cancel", ask_cancel },
};

static void
client_question (struct client *client, size_t len)
{
	json_error_t where;

	client->request = json_loadb (client->in, len, 0, &where);
	const char *op = json_string_value (json_object_get (client->request, "op"));
	for (size_t i = 0; op && i < ARRAY_SIZE (questions); i++) {
		if (strcmp (op, questions[i].op) == 0) {
			questions[i].fn (client);
			return;
		}
	}
	silo_fail (&client->error, SILO_INVALID, "unknown question \"%.40s\"", op ? op : "");
	client_answer (client);
}

/* -- connections ------------------------------------------------------------------------------ */

static void
client_ready (void *arg, uint32_t events)
{
	struct client *client = arg;

	if (events & EPOLLOUT) {
		client_flush (client);
		return;
	}
	if (client->busy) { /* hung up while a job answers */
		client_free (client);
		return;
	}
	ssize_t n = recv (client->io.fd, client->in + client->n_in,
			  sizeof (client->in) - client->n_in, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	/* An end, an error, or a line that is too long. */
	if (n <= 0) {
		client_free (client);
		return;
	}
	client->n_in += (size_t) n;
	char *end = memchr (client->in, '\n', client->n_in);
	if (!end)
		return;
	size_t len = (size_t) (end - client->in);
	client->n_in = 0;
	client_question (client, len);
}

static void
control_accept (void *arg, uint32_t events SILO_UNUSED)
{
	struct control *control = arg;
	struct silo_error err;

	_cleanup_close_ int fd = accept4 (control->io.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0 && (errno == EMFILE || errno == ENFILE)) {
		/* Else the socket would stay readable, and we would spin. */
		util_close (&control->spare);
		fd = accept4 (control->io.fd, NULL, NULL, SOCK_CLOEXEC);
		util_close (&fd);
		fd = -1;
		control->spare = open ("/dev/null", O_RDONLY | O_CLOEXEC);
	}
	if (fd < 0 || control->n_clients >= CLIENTS_MAX)
		return;
	struct client *client = calloc (1, sizeof (*client));
	if (!client)
		return;
	client->control = control;
	client->io.fd = -1;
	if (loop_watch (control->core->loop, &client->io, fd, EPOLLIN, client_ready, client, &err) <
	    0) {
		free (client);
		return;
	}
	silo_steal_fd (&fd);
	client->next = control->clients;
	client->link = &control->clients;
	if (client->next)
		client->next->link = &client->next;
	control->clients = client;
	control->n_clients++;
}

int
control_open (struct core *core, struct control **ret, struct silo_error *err)
{
	struct control *control = calloc (1, sizeof (*control));
	if (!control)
		return silo_fail_nomem (err);
	control->core = core;
	control->io.fd = -1;
	int r =
	    silo_state_path (&core->host, "silo.sock", control->path, sizeof (control->path), err);
	if (r < 0) {
		util_close (&control->spare);
		free (control);
		return r;
	}
	/* The lock on the state folder is ours: a socket there is a dead daemon's. */
	unlink (control->path);
	*ret = control;
	return 0;
}

int
control_ready (struct control *control, struct silo_error *err)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };

	/* Under its name it answers from the first moment: bind elsewhere, listen, rename. */
	int n = snprintf (at.sun_path, sizeof (at.sun_path), "%s.new", control->path);
	if (n < 0 || (size_t) n >= sizeof (at.sun_path))
		return silo_fail (err, SILO_INVALID, "[silo] state: %s is too long for a socket",
				  control->core->settings->state);
	unlink (at.sun_path);
	_cleanup_close_ int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || bind (fd, (struct sockaddr *) &at, sizeof (at)) < 0 ||
	    chmod (at.sun_path, 0600) < 0 || listen (fd, CLIENTS_MAX) < 0 ||
	    rename (at.sun_path, control->path) < 0)
		return silo_fail_sys (err, errno, "%s", control->path);
	int r = loop_watch (control->core->loop, &control->io, fd, EPOLLIN, control_accept, control,
			    err);
	if (r == 0)
		silo_steal_fd (&fd);
	return r;
}

void
control_close (struct control *control)
{
	int fd;

	if (!control)
		return;
	fd = control->io.fd;
	if (fd >= 0) {
		loop_unwatch (control->core->loop, &control->io);
		close (fd);
		unlink (control->path);
	}
	while (control->clients) {
		/* Loop and pool have ended; a job's answer goes to nobody. */
		control->clients->busy = false;
		client_free (control->clients);
	}
	util_close (&control->spare);
	free (control);
}
