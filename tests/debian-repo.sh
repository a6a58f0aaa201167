#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# debian-repo.sh DIR - makes DIR a repository of three tiny packages and prints
# the line of sources.list for it: images of Debian without Debian's mirror.
# silo-hello needs silo-words; libsilo++6 has a name that is hard to read.
set -eu

dir=$1
mkdir -p "$dir/build"

package () # NAME FILE TEXT [DEPENDS]
{
	rm -rf "$dir/build/$1"
	mkdir -p "$dir/build/$1/DEBIAN" "$dir/build/$1/usr/share/silo"
	control="Package: $1
Version: 1
Architecture: all
Maintainer: nobody <nobody@example.org>
${4:+Depends: $4
}Description: for tests"
	printf '%s\n' "$control" >"$dir/build/$1/DEBIAN/control"
	printf '%s\n' "$3" >"$dir/build/$1/usr/share/silo/$2"
	dpkg-deb --root-owner-group -Znone --build "$dir/build/$1" "$dir/$1.deb" >&2
	printf '%s\nFilename: ./%s\nSize: %s\nSHA256: %s\n\n' "$control" "$1.deb" \
		"$(stat -c %s "$dir/$1.deb")" "$(sha256sum <"$dir/$1.deb" | cut -d' ' -f1)" >>"$dir/Packages"
}

: >"$dir/Packages"
package silo-words words "hello, world"
package silo-hello hello "usr/share/silo/words" silo-words
package libsilo++6 library "no library"
chmod -R go+rX "$dir"
echo "deb [trusted=yes] copy:$dir ./"
