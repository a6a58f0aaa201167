#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The plugin guide, followed to the letter: its plugin is the one in
# tests/plugin-guide, its one gcc line builds it against installed headers and
# silo.pc, its test command passes.  Prints TAP.
set -u

guide=$SILO_TEST_SOURCE/docs/plugin-guide.md
example=$SILO_TEST_SOURCE/tests/plugin-guide/content-example.c
tmp=$(mktemp -d "${TMPDIR:-/tmp}/silo-guide-XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT
n=0
failed=0

check () # STATUS NAME: report the status of the command before
{
	n=$((n + 1))
	if [ "$1" = 0 ]; then
		echo "ok $n - $2"
	else
		echo "not ok $n - $2"
		failed=1
		sed 's/^/# /;40q' "$tmp/out"
	fi
}

# shellcheck disable=SC2016 # backquotes of Markdown
sed -n '/^```c$/,/^```$/p' "$guide" | sed '1d;$d' >"$tmp/content-example.c"
sed 1,2d "$example" | diff - "$tmp/content-example.c" >"$tmp/out" 2>&1
check $? "the guide shows the plugin that is tested here"
[ "$(grep -c . "$tmp/content-example.c")" -le 60 ]
check $? "it has at most 60 lines with something on them"

# The same files that `make install` puts there, without the rest of it.
make -C "$SILO_TEST_BUILD" DESTDIR="$tmp/root" install-siloincludeHEADERS install-pkgconfigDATA \
	>"$tmp/out" 2>&1
check $? "headers and silo.pc install"
pc=$(find "$tmp/root" -name silo.pc)
lib=$(pkg-config --with-path="${pc%/*}" --variable=libdir silo)
mkdir -p "$tmp/root$lib" && cp -P "$SILO_TEST_BUILD"/.libs/libsilo.so* "$tmp/root$lib/"

line=$(sed -n 's/^    \(gcc .*silo)\)$/\1/p' "$guide")
[ -n "$line" ]
check $? "the guide has its gcc line"
(
	cd "$tmp" && export PKG_CONFIG_PATH="${pc%/*}" PKG_CONFIG_SYSROOT_DIR="$tmp/root" &&
		eval "$line -Wall -Wextra -Werror"
) >"$tmp/out" 2>&1
check $? "which builds it without a warning"

command=$(sed -n 's/^    silo \(plugins test .*\)$/\1/p' "$guide")
[ -n "$command" ]
check $? "the guide has its test command"
(
	cd "$tmp" && export SILO_PLUGIN_PATH="$SILO_TEST_BUILD/.libs" SILO_CONFIG=/dev/null &&
		export LD_LIBRARY_PATH="$SILO_TEST_BUILD/.libs" && eval "$SILO_TEST_BUILD/silo $command"
) >"$tmp/out" 2>&1
check $? "which passes"

echo "1..$n"
exit $failed
