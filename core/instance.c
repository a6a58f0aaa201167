/* SPDX-License-Identifier: Apache-2.0 */
/*
 * instance.c - one section of silo.ini is one instance of a plugin; which ones
 * serve is said by [silo], what they use by their own options.  Loading makes
 * them in the order in which they must start, stopping goes backwards.  Any
 * one thread; only instance_enter and instance_leave are called from several.
 */
#include "core.h"

#include <limits.h>

enum { INSTANCE_MAX_NAME = 32 };

/* Whose options are being filled in, up to the first: a USE option that names one of these
 * closes a cycle. */
struct wire_scope {
	struct core *core;
	struct silo_instance *owner;
	const struct wire_scope *above;
};

static int instance_get (struct core *core, int kind, const char *name, int line,
			 const struct wire_scope *above, struct silo_instance **ret,
			 struct silo_error *err);

void
instance_enter (struct silo_instance *instance)
{
	assert (instance && instance->magic == INSTANCE_MAGIC);
	/* Content stores take calls from several threads by definition of their kind. */
	if (!(instance->plugin->head.flags & SILO_PARALLEL) && instance->kind != SILO_KIND_CONTENT)
		pthread_mutex_lock (&instance->lock);
}

void
instance_leave (struct silo_instance *instance)
{
	if (!(instance->plugin->head.flags & SILO_PARALLEL) && instance->kind != SILO_KIND_CONTENT)
		pthread_mutex_unlock (&instance->lock);
}

/* -- one instance ------------------------------------------------------------- */

static void
instance_free (struct silo_instance *instance)
{
	if (!instance)
		return;
	assert (instance->magic == INSTANCE_MAGIC && instance->state != INSTANCE_STARTED);
	if (instance->plugin) {
		const struct silo_plugin *head = &instance->plugin->head;
		if (instance->state == INSTANCE_INIT && head->destroy)
			head->destroy (instance->self);
		options_free (head->options, head->option_size, instance->self);
	}
	plugin_free (instance->plugin);
	pthread_mutex_destroy (&instance->lock);
	free (instance->self);
	free (instance->uses);
	free (instance->name);
	free ((char *) instance->host.name);
	instance->magic = 0;
	free (instance);
}

static int
instance_new (struct core *core, int kind, const char *name, int line, struct silo_instance **ret,
	      struct silo_error *err)
{
	char full[64];
	struct silo_instance *instance = calloc (1, sizeof (*instance));
	if (!instance)
		return silo_fail_nomem (err);

	instance->magic = INSTANCE_MAGIC;
	instance->kind = kind;
	instance->line = line;
	pthread_mutex_init (&instance->lock, NULL);
	snprintf (full, sizeof (full), "%s.%s", silo_kind_name (kind), name);
	instance->host.core = core;
	instance->host.level = log_level_for (core->settings, full);
	int r = util_strdup (name, &instance->name, err);
	if (r == 0)
		r = util_strdup (full, (char **) &instance->host.name, err);
	if (r < 0) {
		instance_free (instance);
		return r;
	}
	*ret = instance;
	return 0;
}

static int
list_add (struct instance_list *list, struct silo_instance *instance, struct silo_error *err)
{
	struct silo_instance **grown = reallocarray (list->item, list->n + 1, sizeof (*grown));
	if (!grown)
		return silo_fail_nomem (err);
	list->item = grown;
	list->item[list->n++] = instance;
	return 0;
}

static struct silo_instance *
list_find (const struct instance_list *list, int kind, const char *name)
{
	for (size_t i = 0; i < list->n; i++) {
		if (list->item[i]->kind == kind && strcmp (list->item[i]->name, name) == 0)
			return list->item[i];
	}
	return NULL;
}

/* What init or start of a plugin returned, with the section in front of its message. */
static int
instance_result (const struct silo_instance *instance, const char *what, int r,
		 struct silo_error *why, struct silo_error *err)
{
	const struct config *config = instance->host.core->config;

	if (r == 0)
		return 0;
	if (why->code == 0)
		silo_fail (why, r < 0 ? r : SILO_INTERNAL, "%s failed and did not say why", what);
	if (instance->line > 0)
		silo_wrap (why, "%s:%d: [%s]", config->path, instance->line, instance->host.name);
	else
		silo_wrap (why, "[%s]", instance->host.name);
	if (err)
		*err = *why;
	return why->code;
}

/* A USE option of scope->owner. */
static int
instance_use (void *arg, int kind, const char *name, int line, struct silo_instance **ret,
	      struct silo_error *err)
{
	const struct wire_scope *scope = arg;
	char chain[160] = "";
	size_t n = 0;

	for (const struct wire_scope *s = scope; s; s = s->above) {
		n += (size_t) snprintf (chain + n, sizeof (chain) - n, " <- %s (line %d)",
					s->owner->host.name, s->owner->line);
		if (n >= sizeof (chain))
			n = sizeof (chain) - 1;
		if (s->owner->kind == kind && strcmp (s->owner->name, name) == 0)
			return config_fail (scope->core->config, line, err,
					    "[%s] uses %s.%s, which needs it itself: %s.%s%s",
					    scope->owner->host.name, silo_kind_name (kind), name,
					    silo_kind_name (kind), name, chain);
	}

	struct silo_instance *used = NULL;
	int r = instance_get (scope->core, kind, name, line, scope, &used, err);
	if (r < 0)
		return r;
	struct silo_instance *owner = scope->owner;
	struct silo_instance **grown =
	    reallocarray (owner->uses, owner->n_uses + 1, sizeof (*grown));
	if (!grown)
		return silo_fail_nomem (err);
	owner->uses = grown;
	owner->uses[owner->n_uses++] = used;
	*ret = used;
	return 0;
}

/* Options and init; the plugin is loaded.  What it uses is ready when this returns. */
static int
instance_init (struct silo_instance *instance, const struct option_scope *options,
	       const struct config_section *section, struct silo_error *err)
{
	const struct silo_plugin *head = &instance->plugin->head;
	struct silo_error why = { 0 };

	instance->self = calloc (1, head->instance_size ? head->instance_size : 1);
	if (!instance->self)
		return silo_fail_nomem (err);
	int r = options_fill (options, instance->host.name, section, head->options,
			      head->option_size, instance->self, err);
	if (r < 0)
		return r;
	r = head->init ? head->init (instance->self, &instance->host, &why) : 0;
	if (r != 0)
		return instance_result (instance, "init", r, &why, err);
	instance->state = INSTANCE_INIT;
	return 0;
}

/* -- sections ------------------------------------------------------------------- */

/* The plugin of a section: its key `plugin`, else the instance's own name. */
static const char *
section_plugin (const struct config_section *section, const char *name, int *line)
{
	for (size_t k = 0; section && k < section->n_keys; k++) {
		if (strcmp (section->keys[k].name, "plugin") == 0) {
			section->keys[k].used = true;
			*line = section->keys[k].line;
			return section->keys[k].value;
		}
	}
	if (section)
		*line = section->line;
	return name;
}

static const struct config_section *
section_of (struct core *core, int kind, const char *name)
{
	char full[64];

	snprintf (full, sizeof (full), "%s.%s", silo_kind_name (kind), name);
	return config_find (core->config, full);
}

static bool
instance_name_ok (const char *name)
{
	size_t n = strspn (name, "abcdefghijklmnopqrstuvwxyz0123456789_-");
	return n > 0 && n <= INSTANCE_MAX_NAME && name[n] == 0;
}

/* The plugin that a section (or a name without one) asks for; `line` is where. */
static int
section_load_plugin (struct core *core, int kind, const char *name, int line, struct plugin **ret,
		     struct silo_error *err)
{
	const struct config_section *section = section_of (core, kind, name);
	struct silo_error why = { 0 };

	if (!instance_name_ok (name))
		return config_fail (
		    core->config, line, err,
		    "\"%.60s\": expected the name of a %s instance: 1 to %d of a-z, "
		    "0-9, _ and -",
		    name, silo_kind_name (kind), INSTANCE_MAX_NAME);
	const char *plugin = section_plugin (section, name, &line);
	if (strchr (plugin, '/') && plugin[0] != '/')
		return config_fail (core->config, line, err,
				    "plugin %.100s: expected a name or an absolute path", plugin);
	int r = plugin_load (kind, plugin, ret, &why);
	if (r == SILO_NOTFOUND || r == SILO_INVALID)
		return config_fail (core->config, line, err, "%s", why.msg);
	if (r < 0 && err)
		*err = why;
	return r;
}

/* Find an instance or make it, with all that it uses. */
static int
instance_get (struct core *core, int kind, const char *name, int line,
	      const struct wire_scope *above, struct silo_instance **ret, struct silo_error *err)
{
	struct silo_instance *instance = list_find (&core->wiring.all, kind, name);
	struct plugin *plugin;

	if (instance) {
		*ret = instance;
		return 0;
	}
	int r = section_load_plugin (core, kind, name, line, &plugin, err);
	if (r < 0)
		return r;
	const struct config_section *section = section_of (core, kind, name);
	r = instance_new (core, kind, name, section ? section->line : 0, &instance, err);
	if (r < 0) {
		plugin_free (plugin);
		return r;
	}
	instance->plugin = plugin;

	struct wire_scope scope = { .core = core, .owner = instance, .above = above };
	struct option_scope options = { .config = core->config,
					.state = core->settings->state,
					.use = instance_use,
					.arg = &scope };
	r = instance_init (instance, &options, section, err);
	if (r == 0)
		r = list_add (&core->wiring.all, instance, err);
	if (r < 0) {
		instance_free (instance);
		return r;
	}
	*ret = instance;
	return 0;
}

/* For sections that nothing uses: does what they name exist? */
static int
section_check_use (void *arg, int kind, const char *name, int line, struct silo_instance **ret,
		   struct silo_error *err)
{
	struct plugin *plugin;
	int r = section_load_plugin (arg, kind, name, line, &plugin, err);
	if (r == 0) {
		plugin_free (plugin);
		*ret = NULL;
	}
	return r;
}

/* Check the keys of a section without making its instance. */
static int
section_check (struct core *core, const struct config_section *section, int kind, const char *name,
	       struct silo_error *err)
{
	struct plugin *plugin;
	struct option_scope options = { .config = core->config,
					.state = core->settings->state,
					.use = section_check_use,
					.arg = core };

	int r = section_load_plugin (core, kind, name, section->line, &plugin, err);
	if (r < 0)
		return r;
	const struct silo_plugin *head = &plugin->head;
	void *scratch = calloc (1, head->instance_size ? head->instance_size : 1);
	if (!scratch)
		r = silo_fail_nomem (err);
	else
		r = options_fill (&options, section->name, section, head->options,
				  head->option_size, scratch, err);
	options_free (head->options, head->option_size, scratch);
	free (scratch);
	plugin_free (plugin);
	return r;
}

/* "kind.instance" taken apart. */
static int
section_parse (const struct config *config, const struct config_section *section, int *ret_kind,
	       const char **ret_name, struct silo_error *err)
{
	static const char *const words[] = { "silo",  "transport", "storage",  "content",
					     "image", "rootfs",    "container" };
	char kind_word[64];
	size_t len = strcspn (section->name, ".");
	int kind = kind_parse (section->name, len);

	if (kind && section->name[len] == '.' && instance_name_ok (section->name + len + 1)) {
		*ret_kind = kind;
		*ret_name = section->name + len + 1;
		return 0;
	}
	if (kind)
		return config_fail (
		    config, section->line, err,
		    "[%s]: expected [%s.NAME] with a name of 1 to %d of a-z, 0-9, _ "
		    "and -",
		    section->name, silo_kind_name (kind), INSTANCE_MAX_NAME);
	snprintf (kind_word, sizeof (kind_word), "%.*s", (int) len, section->name);
	const char *nearest = word_nearest (kind_word, words, ARRAY_SIZE (words));
	const char *rest = nearest == words[0] ? "" : section->name + len;
	if (nearest)
		return config_fail (config, section->line, err,
				    "[%s]: unknown section, did you mean [%s%s]?", section->name,
				    nearest, rest);
	return config_fail (config, section->line, err,
			    "[%s]: unknown section, expected [silo] or [KIND.NAME] with a kind of "
			    "transport, storage, content, image, rootfs or container",
			    section->name);
}

/* Every section has a valid name; the keys of those that nothing uses are valid, too.  A section
 * without keys says nothing and may stand there for a plugin that is not installed. */
static int
wiring_check_sections (struct core *core, bool keys, struct silo_error *err)
{
	const struct config *config = core->config;

	for (size_t i = 0; i < config->n_sections; i++) {
		const struct config_section *section = &config->sections[i];
		const char *name = NULL;
		int kind = 0;

		if (strcmp (section->name, "silo") == 0)
			continue;
		int r = section_parse (config, section, &kind, &name, err);
		if (r == 0 && keys && section->n_keys > 0 &&
		    !list_find (&core->wiring.all, kind, name))
			r = section_check (core, section, kind, name, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* -- the wiring -------------------------------------------------------------------- */

/* Where [silo] says `name`; 0: it does not, the default holds. */
static int
silo_key_line (const struct core *core, const char *name)
{
	const struct config_section *silo = config_find (core->config, "silo");

	for (size_t k = 0; silo && k < silo->n_keys; k++) {
		if (strcmp (silo->keys[k].name, name) == 0)
			return silo->keys[k].line;
	}
	return 0;
}

/* May this instance be left out because its plugin is not installed?  Only when nobody has
 * asked for it: [silo] names it by default, and its section is missing or empty. */
static bool
wiring_may_skip (struct core *core, int kind, const char *name)
{
	const struct config_section *section = section_of (core, kind, name);
	struct plugin *plugin;

	if (section && section->n_keys > 0)
		return false;
	if (plugin_load (kind, name, &plugin, NULL) == SILO_NOTFOUND) {
		silo_log (&core->host, SILO_DEBUG, "%s.%s is not installed and left out",
			  silo_kind_name (kind), name);
		return true;
	}
	plugin_free (plugin);
	return false;
}

static int
wiring_load_list (struct core *core, int kind, const char *const *names, struct instance_list *list,
		  struct silo_error *err)
{
	const char *kind_name = silo_kind_name (kind);
	int line = silo_key_line (core, kind_name);

	for (const char *const *name = names; *name; name++) {
		struct silo_instance *instance;
		if (line == 0 && wiring_may_skip (core, kind, *name))
			continue;
		int r = instance_get (core, kind, *name, line, NULL, &instance, err);
		if (r < 0)
			return r;
		if (list_find (list, kind, *name))
			return config_fail (core->config, line, err, "[silo] %s names %s twice",
					    kind_name, *name);
		r = list_add (list, instance, err);
		if (r < 0)
			return r;
	}
	if (list->n > 0)
		return 0;
	if (line > 0)
		return config_fail (core->config, line, err,
				    "[silo] %s: expected at least one name", kind_name);
	return config_fail (core->config, 0, err, "no %s plugin is installed in %s", kind_name,
			    plugin_folders ());
}

static int
wiring_load_one (struct core *core, int kind, const char *name, struct silo_instance **ret,
		 struct silo_error *err)
{
	int line = silo_key_line (core, silo_kind_name (kind));

	if (!*name)
		return config_fail (core->config, line, err, "[silo] %s: expected a name",
				    silo_kind_name (kind));
	return instance_get (core, kind, name, line, NULL, ret, err);
}

int
wiring_load (struct core *core, unsigned kinds, struct silo_error *err)
{
	const struct settings *s = core->settings;
	struct wiring *w = &core->wiring;

	int r = wiring_check_sections (core, false, err);
	if (r == 0 && (kinds & WIRE (SILO_KIND_STORAGE)))
		r = wiring_load_one (core, SILO_KIND_STORAGE, s->storage, &w->storage, err);
	if (r == 0 && (kinds & WIRE (SILO_KIND_CONTENT)))
		r = wiring_load_one (core, SILO_KIND_CONTENT, s->content, &w->content, err);
	if (r == 0 && (kinds & WIRE (SILO_KIND_IMAGE)))
		r = wiring_load_list (core, SILO_KIND_IMAGE, s->image, &w->image, err);
	if (r == 0 && (kinds & WIRE (SILO_KIND_ROOTFS)))
		r = wiring_load_list (core, SILO_KIND_ROOTFS, s->rootfs, &w->rootfs, err);
	if (r == 0 && (kinds & WIRE (SILO_KIND_CONTAINER)))
		r = wiring_load_list (core, SILO_KIND_CONTAINER, s->container, &w->container, err);
	if (r == 0 && (kinds & WIRE (SILO_KIND_TRANSPORT)))
		r = wiring_load_list (core, SILO_KIND_TRANSPORT, s->transport, &w->transport, err);
	if (r == 0)
		r = wiring_check_sections (core, true, err);
	if (r < 0)
		wiring_free (core);
	return r;
}

int
wiring_start (struct core *core, struct silo_error *err)
{
	const struct instance_list *all = &core->wiring.all;

	for (size_t i = 0; i < all->n; i++) {
		struct silo_instance *instance = all->item[i];
		const struct silo_plugin *head = &instance->plugin->head;
		struct silo_error why = { 0 };

		if (instance->state == INSTANCE_STARTED)
			continue;
		int r = head->start ? head->start (instance->self, &why) : 0;
		if (r != 0) {
			wiring_stop (core);
			return instance_result (instance, "start", r, &why, err);
		}
		instance->state = INSTANCE_STARTED;
	}
	return 0;
}

void
instance_stop (struct silo_instance *instance)
{
	if (instance->state != INSTANCE_STARTED)
		return;
	if (instance->plugin->head.stop)
		instance->plugin->head.stop (instance->self);
	instance->state = INSTANCE_INIT;
}

void
wiring_stop (struct core *core)
{
	const struct instance_list *all = &core->wiring.all;

	for (size_t i = all->n; i-- > 0;)
		instance_stop (all->item[i]);
}

void
wiring_free (struct core *core)
{
	struct wiring *w = &core->wiring;

	wiring_stop (core);
	for (size_t i = w->all.n; i-- > 0;)
		instance_free (w->all.item[i]);
	free (w->all.item);
	free (w->transport.item);
	free (w->image.item);
	free (w->rootfs.item);
	free (w->container.item);
	memset (w, 0, sizeof (*w));
	core->rootfs = core->container = NULL;
}

/* -- instances without silo.ini ----------------------------------------------------- */

/* Make it serve, as if [silo] had named it. */
static int
wiring_place (struct wiring *w, struct silo_instance *instance, struct silo_error *err)
{
	switch (instance->kind) {
	case SILO_KIND_STORAGE:
		w->storage = w->storage ? w->storage : instance;
		return 0;
	case SILO_KIND_CONTENT:
		w->content = w->content ? w->content : instance;
		return 0;
	case SILO_KIND_TRANSPORT:
		return list_add (&w->transport, instance, err);
	case SILO_KIND_IMAGE:
		return list_add (&w->image, instance, err);
	case SILO_KIND_ROOTFS:
		return list_add (&w->rootfs, instance, err);
	default:
		return list_add (&w->container, instance, err);
	}
}

/* The options as a silo.ini: "section" and the texts one below the other. */
static int
wiring_add_config (const char *section, const char *const *options, struct config **ret,
		   struct silo_error *err)
{
	_cleanup_buf_ struct silo_buf text = SILO_BUF (65536);

	int r = silo_buf_addf (&text, err, "[%s]\n", section);
	for (size_t i = 0; r == 0 && options && options[i]; i++) {
		const char *equals = strchr (options[i], '=');
		if (!equals || equals == options[i])
			return silo_fail (err, SILO_INVALID, "\"%.60s\": expected key=value",
					  options[i]);
		r = silo_buf_addf (&text, err, "%s\n", options[i]);
	}
	return r < 0 ? r : config_parse ("arguments", (const char *) text.data, ret, err);
}

int
wiring_add (struct core *core, int kind, const char *plugin_name, const char *const *options,
	    struct silo_instance **ret, struct silo_error *err)
{
	struct plugin *plugin;
	struct silo_instance *instance = NULL;
	struct config *config = NULL;
	char name[64];

	int r = plugin_load (kind, plugin_name, &plugin, err);
	if (r < 0)
		return r;
	snprintf (name, sizeof (name), "%s", plugin->head.name);
	for (int i = 2; list_find (&core->wiring.all, kind, name); i++)
		snprintf (name, sizeof (name), "%s-%d", plugin->head.name, i);
	r = instance_new (core, kind, name, 0, &instance, err);
	if (r < 0) {
		plugin_free (plugin);
		return r;
	}
	instance->plugin = plugin;

	r = wiring_add_config (instance->host.name, options, &config, err);
	struct wire_scope scope = { .core = core, .owner = instance };
	struct option_scope from = {
		.config = config, .state = core->settings->state, .use = instance_use, .arg = &scope
	};
	if (r == 0)
		r = instance_init (instance, &from, &config->sections[0], err);
	config_free (config);
	if (r == 0)
		r = list_add (&core->wiring.all, instance, err);
	if (r < 0) {
		instance_free (instance);
		return r;
	}
	*ret = instance;
	return wiring_place (&core->wiring, instance, err);
}
