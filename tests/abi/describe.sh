#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# etc/silo.ini is what the plugins' option tables say: whoever changes an option
# makes it again with `silo plugins --describe=ini`.  Prints TAP.
set -u

ini=$SILO_TEST_SOURCE/etc/silo.ini
silo=$SILO_TEST_BUILD/silo
tmp=$(mktemp -d "${TMPDIR:-/tmp}/silo-describe-XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT
export SILO_PLUGIN_PATH="$SILO_TEST_BUILD/.libs"
export SILO_CONFIG=/dev/null
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
		sed 's/^/# /;60q' "$tmp/out"
	fi
}

# Sections, each from the comment above its name, without those of plugins that this
# build does not have.
built () # FILE
{
	awk -v folder="$SILO_PLUGIN_PATH" '
	function flush (kind) {
		if (name == "" || name == "silo" || (getline line < (folder "/" file ".so")) >= 0)
			printf "%s", text
		close (folder "/" file ".so")
		text = ""
	}
	# A comment before a section belongs to it, not to the keys above.
	/^$/ { pending = pending "\n"; next }
	/^\[/ {
		flush ()
		name = substr ($0, 2, length ($0) - 2)
		file = name
		sub (/\./, "-", file)
		text = pending $0 "\n"
		pending = ""
		next
	}
	/^#[a-z_0-9]* =/ { text = text pending $0 "\n"; pending = ""; next }
	{ pending = pending $0 "\n" }
	END { text = text pending; flush () }' "$1"
}

"$silo" plugins --describe=ini >"$tmp/now" 2>"$tmp/out"
check $? "silo plugins --describe=ini"
built "$ini" >"$tmp/kept"
built "$tmp/now" | diff -u "$tmp/kept" - >"$tmp/out"
check $? "etc/silo.ini is up to date"
HOME=/nonexistent "$silo" plugins --describe=ini | cmp -s - "$tmp/now"
check $? "it does not depend on who makes it"

mkdir "$tmp/state"
sed "s|^#state =|state = $tmp/state|" "$tmp/now" >"$tmp/silo.ini"
"$silo" --config "$tmp/silo.ini" check >"$tmp/out" 2>&1
check $? "it is a valid silo.ini"
# Every default, written out, is valid as well; secrets and what must be given aside.
# The lists of [silo] may name what this build does not have: they stay as they are.
sed -E "1,/^\[.*\..*\]/!s|^#([a-z_0-9]+ = .+)$|\1|;s|^#state =|state = $tmp/state|
	s/^#(log|max_.*|.*timeout|kill_.*|drain|.*_.*|memory|cpu|pids) = /\1 = /" \
	"$tmp/now" >"$tmp/silo.ini"
"$silo" --config "$tmp/silo.ini" check >"$tmp/out" 2>&1
check $? "and so are its defaults when they are written out"
[ -z "$(ls -A "$tmp/state")" ]
check $? "silo check writes nothing"

"$silo" plugins --describe=json >"$tmp/json" 2>"$tmp/out" && python3 -c 'import json, sys
d = json.load (open (sys.argv[1]))
assert d["silo"] and all (o["help"] for p in d["plugins"] for o in p["options"])' "$tmp/json" 2>>"$tmp/out"
check $? "every option has help in the JSON"
"$silo" plugins --describe=man >"$tmp/man" 2>"$tmp/out" && [ -s "$tmp/man" ] &&
	! grep -nE "^([.][^ABRSTI]|')" "$tmp/man" >>"$tmp/out"
check $? "the manual page has no stray requests"
"$silo" plugins --describe=xml >"$tmp/out" 2>&1
[ $? = 2 ]
check $? "an unknown format is a usage error"

echo "1..$n"
exit $failed
