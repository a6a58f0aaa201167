#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Every public header compiles alone, as strict C99 and as C++, without a warning.
set -u

include=$SILO_TEST_SOURCE/include
dir=$(mktemp -d) || exit 99
trap 'rm -rf "$dir"' EXIT
n=0
bad=0

try () # NAME COMMAND...
{
	name=$1
	shift
	n=$((n + 1))
	if "$@" -Wall -Wextra -Werror -pedantic -fsyntax-only -I"$include" "$dir/$source" 2>"$dir/log"; then
		echo "ok $n - $name"
	else
		bad=$((bad + 1))
		echo "not ok $n - $name"
		sed 's/^/# /' "$dir/log"
	fi
}

for path in "$include"/silo/*.h; do
	header=silo/$(basename "$path")
	echo "#include <$header>" >"$dir/one.c"
	cp "$dir/one.c" "$dir/one.cc"
	source=one.c
	try "$header in C99" gcc -std=c99
	source=one.cc
	try "$header in C++" g++ -std=c++11
done
echo "1..$n"
[ "$bad" = 0 ]
