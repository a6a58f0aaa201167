#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds plugins against the frozen headers of the first Silo, and broken ones:
# today's Silo has to run the old, to refuse what is newer than itself, and to
# survive the rest.  Prints TAP.
set -u

silo=$SILO_TEST_BUILD/silo
here=$SILO_TEST_SOURCE/tests/abi
tmp=$(mktemp -d "${TMPDIR:-/tmp}/silo-abi-XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT
mkdir "$tmp/plugins" "$tmp/scratch"
export SILO_PLUGIN_PATH="$tmp/plugins"
export SILO_CONFIG=/dev/null
n=0
failed=0
places=

check () # STATUS NAME: report the status of the command before
{
	n=$((n + 1))
	if [ "$1" = 0 ]; then
		echo "ok $n - $2"
	else
		echo "not ok $n - $2"
		failed=1
		sed 's/^/# /;20q' "$tmp/out"
	fi
}

build () # VARIANT
{
	${CC:-cc} -shared -fPIC -Wall -Wno-unused -Werror "-DVARIANT=$1" "-I$here/v1" "$here/variant.c" \
		-o "$tmp/plugins/content-variant.so" >"$tmp/out" 2>&1
	check $? "variant $1 builds against the first headers"
}

runs () # VARIANT: it is a plugin
{
	build "$1"
	"$silo" plugins --describe >"$tmp/out" 2>&1
	grep -q '^\[content.variant\]$' "$tmp/out" && grep -q '^#number = 1$' "$tmp/out"
	check $? "variant $1 is accepted, with its option"
	printf '[silo]\nstorage = none\n[content.variant]\nnumber = x\n' >"$tmp/silo.ini"
	"$silo" --config "$tmp/silo.ini" plugins >"$tmp/out" 2>&1
	grep -q 'variant  *1 ' "$tmp/out"
	check $? "and listed"
}

refused () # VARIANT MESSAGE: it is none, and this is why
{
	build "$1"
	"$silo" plugins >"$tmp/out" 2>&1 && grep -qF -e "$2" "$tmp/out"
	check $? "variant $1: $2"
}

runs FINE
runs SHORT
runs LONG
refused NEW_HEAD 'was built for a newer Silo and uses what this one does not have (descriptor)'
refused NEW_OPS 'was built for a newer Silo and uses what this one does not have (operations)'
refused NEW_OPTION 'was built for a newer Silo and uses what this one does not have (number)'
refused OTHER_ABI 'was built for ABI 2 of Silo, this is ABI 1: build it again'
refused NO_READ 'lacks read, which every content plugin must have'
refused HALF_STAGE 'has stage but not abort: they come together'
refused OUTSIDE 'option number is at offset 8, outside its instance of 8 bytes'
refused UNALIGNED 'option number is at offset 4, outside its instance of 8 bytes'
refused NO_TYPE 'option number is of type 99, which this Silo does not know'
refused NO_KIND 'is of kind 77, which this Silo does not know'
refused NO_NAME 'expected a name of 1 to 32 of a-z, 0-9, _ and -'
refused FUNCTION 'silo_plugin is not a descriptor'
refused TINY 'silo_plugin is not a descriptor'
refused BOAST 'its descriptor says that it has 4000 bytes'
refused ENDLESS 'has option number twice'
refused TWICE 'has option number twice'
refused NO_CHOICES 'option number has no choices'
refused NO_OPS 'has no table of operations'
refused GIANT 'wants 1099511627776 bytes for an instance, at most 1048576 are given'
refused PLUGIN_KEY '"plugin" is no name for an option'

# The first Silo's plugins run on: the example of the guide, built with its headers.
rm "$tmp/plugins/content-variant.so"
${CC:-cc} -shared -fPIC -Wall -Werror "-I$here/v1" \
	"$SILO_TEST_SOURCE/tests/plugin-guide/content-example.c" \
	-o "$tmp/plugins/content-example.so" "-L$SILO_TEST_BUILD/.libs" -lsilo >"$tmp/out" 2>&1
check $? "an old plugin builds"
LD_LIBRARY_PATH=$SILO_TEST_BUILD/.libs SILO_PLUGIN_PATH=$SILO_TEST_BUILD/.libs "$silo" plugins test content \
	"$tmp/plugins/content-example.so" lower=dir >"$tmp/out" 2>&1
check $? "and passes today's suite of its kind"

# Records of the first Silo's plugins have fewer fields.
${CC:-cc} -shared -fPIC -D_GNU_SOURCE -Wall -Werror "-I$here/v1" "$here/storage.c" \
	-o "$tmp/plugins/storage-old.so" "-L$SILO_TEST_BUILD/.libs" -lsilo >"$tmp/out" 2>&1
check $? "an old storage plugin builds"
printf '[silo]\nstate = %s/state\nstorage = old\n' "$tmp" >"$tmp/old.ini"
LD_LIBRARY_PATH=$SILO_TEST_BUILD/.libs SILO_PLUGIN_PATH=$tmp/plugins:$SILO_TEST_BUILD/.libs \
	"$silo" --config "$tmp/old.ini" images >"$tmp/out" 2>&1
grep -q '^old:1 .* damaged' "$tmp/out"
check $? "its image is listed, as one whose metadata file is gone"

# What was in the headers once may only be added to.
cat >"$tmp/same.c" <<'END'
#include <silo/silo.h>
#define SAME(type, last) _Static_assert (offsetof (struct type, last) == LAST_##type, #type " changed")
SAME (silo_plugin, destroy);
SAME (silo_option, help);
SAME (silo_transport_ops, drain);
SAME (silo_storage_ops, thing_drop);
SAME (silo_content_ops, sync);
SAME (silo_image_ops, import);
SAME (silo_rootfs_ops, wait);
SAME (silo_container_ops, resume);
END
cat >"$tmp/last.c" <<'END'
#include <stdio.h>
#include <silo/silo.h>
#define SHOW(type, last) printf ("-DLAST_" #type "=%zu ", offsetof (struct type, last))
int main (void)
{
	SHOW (silo_plugin, destroy);
	SHOW (silo_option, help);
	SHOW (silo_transport_ops, drain);
	SHOW (silo_storage_ops, thing_drop);
	SHOW (silo_content_ops, sync);
	SHOW (silo_image_ops, import);
	SHOW (silo_rootfs_ops, wait);
	SHOW (silo_container_ops, resume);
	return 0;
}
END
${CC:-cc} "-I$here/v1" "$tmp/last.c" -o "$tmp/last" >"$tmp/out" 2>&1 && places=$("$tmp/last")
# shellcheck disable=SC2086 # one -D each
${CC:-cc} -fsyntax-only "-I$SILO_TEST_SOURCE/include" $places "$tmp/same.c" >"$tmp/out" 2>&1
check $? "fields of the first headers are where they were"

echo "1..$n"
exit $failed
