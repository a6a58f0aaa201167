# SPDX-License-Identifier: Apache-2.0
# What configure.ac needs beyond Autoconf: compiler flags, a switch per plugin,
# the cloudpickle that is installed beside the runner, the summary.

# SILO_COMPILER_FLAGS: --enable-sanitizers, --enable-werror, and what this
# linker understands.  Sets SILO_CFLAGS, SILO_LDFLAGS and MODULE_LDFLAGS.
AC_DEFUN([SILO_COMPILER_FLAGS], [
AC_ARG_ENABLE([werror],
	      [AS_HELP_STRING([--enable-werror], [warnings are errors @<:@no@:>@])],
	      [], [enable_werror=no])
AC_ARG_ENABLE([sanitizers],
	      [AS_HELP_STRING([--enable-sanitizers], [build with ASan and UBSan @<:@no@:>@])],
	      [], [enable_sanitizers=no])

SILO_CFLAGS="-std=gnu11 -Wall -Wextra -fvisibility=hidden -fno-strict-aliasing"
SILO_LDFLAGS=
AS_IF([test "x$enable_werror" = xyes], [SILO_CFLAGS="$SILO_CFLAGS -Werror"])
AS_IF([test "x$enable_sanitizers" = xyes], [
	silo_sanitize="-fsanitize=address,undefined -fno-sanitize-recover=undefined"
	SILO_CFLAGS="$SILO_CFLAGS $silo_sanitize -fno-omit-frame-pointer"
	SILO_LDFLAGS="$SILO_LDFLAGS $silo_sanitize"
	AC_MSG_CHECKING([whether $CC links with sanitizers])
	silo_save_flags=$CFLAGS
	CFLAGS="$CFLAGS $silo_sanitize"
	AC_LINK_IFELSE([AC_LANG_PROGRAM()], [AC_MSG_RESULT([yes])],
		       [AC_MSG_RESULT([no])
			AC_MSG_ERROR([$CC cannot link with $silo_sanitize: leave out --enable-sanitizers])])
	CFLAGS=$silo_save_flags
])

# A plugin that misses a symbol should not link; clang's sanitizers leave theirs
# undefined in shared objects, so the linker is asked under the flags in use.
MODULE_LDFLAGS=
AC_MSG_CHECKING([whether shared objects link with -z defs])
silo_save_cflags=$CFLAGS
silo_save_ldflags=$LDFLAGS
CFLAGS="$CFLAGS $SILO_CFLAGS -fPIC"
LDFLAGS="$LDFLAGS $SILO_LDFLAGS -shared -Wl,-z,defs"
AC_LINK_IFELSE([AC_LANG_SOURCE([[int silo_try (int *p); int silo_try (int *p) { return *p / p[1]; }]])],
	       [AC_MSG_RESULT([yes])
		MODULE_LDFLAGS="-Wl,-z,defs"],
	       [AC_MSG_RESULT([no])])
CFLAGS=$silo_save_cflags
LDFLAGS=$silo_save_ldflags

AC_SUBST([SILO_CFLAGS])
AC_SUBST([SILO_LDFLAGS])
AC_SUBST([MODULE_LDFLAGS])
])

# SILO_FAULTS: --enable-faults, places in the core at which tests kill the process
# or let an operation fail.  Never for a build that people use.
AC_DEFUN([SILO_FAULTS], [
AC_ARG_ENABLE([faults],
	      [AS_HELP_STRING([--enable-faults], [build with fault points, for tests @<:@no@:>@])],
	      [], [enable_faults=no])
FAULT_CPPFLAGS=
AS_IF([test "x$enable_faults" = xyes], [FAULT_CPPFLAGS=-DSILO_FAULTS])
AC_SUBST([FAULT_CPPFLAGS])
AM_CONDITIONAL([WITH_FAULTS], [test "x$enable_faults" = xyes])
])

# SILO_FUZZING: --enable-fuzzing, which makes libFuzzer programs of tests/fuzz.
AC_DEFUN([SILO_FUZZING], [
AC_ARG_ENABLE([fuzzing],
	      [AS_HELP_STRING([--enable-fuzzing], [build tests/fuzz for libFuzzer; needs CC=clang @<:@no@:>@])],
	      [], [enable_fuzzing=no])
AS_IF([test "x$enable_fuzzing" = xyes], [
	AC_MSG_CHECKING([whether $CC has libFuzzer])
	silo_save_flags=$CFLAGS
	CFLAGS="$CFLAGS -fsanitize=fuzzer"
	AC_LINK_IFELSE([AC_LANG_SOURCE([[
int LLVMFuzzerTestOneInput (const unsigned char *p, unsigned long n);
int LLVMFuzzerTestOneInput (const unsigned char *p, unsigned long n) { return n > 0 && *p == 255; }
]])],
		       [AC_MSG_RESULT([yes])],
		       [AC_MSG_RESULT([no])
			AC_MSG_ERROR([--enable-fuzzing needs clang with its runtime libraries: configure CC=clang; on Debian: apt-get install clang])])
	CFLAGS=$silo_save_flags
	SILO_CFLAGS="$SILO_CFLAGS -fsanitize=fuzzer-no-link"
])
AM_CONDITIONAL([WITH_FUZZING], [test "x$enable_fuzzing" = xyes])
])

# SILO_PLUGIN(kind, name, [pkg-config modules], [packages], [extra test], [what it tests])
# --with-KIND-NAME, built by default when everything that it needs is there.
# Sets KIND_NAME_CFLAGS and KIND_NAME_LIBS and the conditional WITH_KIND_NAME.
AC_DEFUN([SILO_PLUGIN], [
m4_pushdef([silo_up], m4_toupper([$1_$2]))dnl
AC_ARG_WITH([$1-$2],
	    [AS_HELP_STRING([--with-$1-$2], m4_ifblank([$3], [[build plugin $1/$2 @<:@yes@:>@]],
						     [[build plugin $1/$2 @<:@when found: $3@:>@]]))],
	    [], [with_$1_$2=auto])
silo_state=yes
silo_why=
AS_IF([test "x$with_$1_$2" = xno], [
	silo_state=no
	silo_why="--without-$1-$2"
], [
	m4_ifnblank([$3], [
	PKG_CHECK_MODULES(silo_up, [$3], [], [
		silo_state=no
		silo_why="missing: $3"
	])])
	m4_ifnblank([$5], [
	AS_IF([$5], [], [
		silo_state=no
		silo_why="missing: m4_default([$6], [a program for $3])"
	])])
	AS_IF([test "x$silo_state" = xno && test "x$with_$1_$2" != xauto],
	      [AC_MSG_ERROR([--with-$1-$2 needs $3; on Debian: apt-get install $4])])
	AS_IF([test "x$silo_state" = xno], [silo_why="$silo_why (apt-get install $4)"])
])
AM_CONDITIONAL([WITH_]silo_up, [test "x$silo_state" = xyes])
m4_append([SILO_SUMMARY_ROWS], [silo_row "$1/$2" "$silo_row_$1_$2"
])
AS_IF([test -n "$silo_why"], [silo_row_$1_$2="no   $silo_why"], [silo_row_$1_$2=yes])
m4_popdef([silo_up])dnl
])

# SILO_GZIP: what image plugins undo gzip with, ISA-L or zlib.  Sets GZIP_CFLAGS,
# GZIP_LIBS and silo_gzip, which is "no" when there is neither.
AC_DEFUN([SILO_GZIP], [
AC_ARG_WITH([isal],
	    [AS_HELP_STRING([--with-isal], [undo gzip with ISA-L, twice as fast as zlib @<:@when found@:>@])],
	    [], [with_isal=auto])
silo_gzip=no
AS_IF([test "x$with_isal" != xno],
      [PKG_CHECK_MODULES([ISAL], [libisal >= 2.20],
			 [silo_gzip="ISA-L"
			  GZIP_CFLAGS="$ISAL_CFLAGS -DHAVE_ISAL=1"
			  GZIP_LIBS=$ISAL_LIBS], [:])])
AS_IF([test "x$silo_gzip" = xno && test "x$with_isal" = xyes],
      [AC_MSG_ERROR([--with-isal needs libisal; on Debian: apt-get install libisal-dev])])
AS_IF([test "x$silo_gzip" = xno],
      [PKG_CHECK_MODULES([ZLIB], [zlib >= 1.2.11],
			 [silo_gzip="zlib   (apt-get install libisal-dev for twice the speed)"
			  GZIP_CFLAGS=$ZLIB_CFLAGS
			  GZIP_LIBS=$ZLIB_LIBS], [:])])
AC_SUBST([GZIP_CFLAGS])
AC_SUBST([GZIP_LIBS])
])

# SILO_CLOUDPICKLE: the folder of the Python package that is copied beside the
# runner, so that images need not hold it.
AC_DEFUN([SILO_CLOUDPICKLE], [
AC_PATH_PROG([PYTHON3], [python3])
AC_ARG_WITH([cloudpickle],
	    [AS_HELP_STRING([--with-cloudpickle=DIR], [the Python package cloudpickle @<:@asked of .venv or python3@:>@])],
	    [], [with_cloudpickle=auto])
AC_MSG_CHECKING([for cloudpickle])
CLOUDPICKLE_DIR=
AS_CASE([$with_cloudpickle],
	[auto|yes], [
		for silo_python in "$srcdir/.venv/bin/python3" "$PYTHON3"; do
			AS_IF([test -z "$CLOUDPICKLE_DIR" && test -x "$silo_python"],
			      [CLOUDPICKLE_DIR=`"$silo_python" -c 'import cloudpickle; print(list(cloudpickle.__path__).pop())' 2>/dev/null`])
		done],
	[no], [AC_MSG_ERROR([containers need cloudpickle: give its folder with --with-cloudpickle=DIR])],
	[CLOUDPICKLE_DIR=$with_cloudpickle])
AS_IF([test -n "$CLOUDPICKLE_DIR" && test -f "$CLOUDPICKLE_DIR/__init__.py"],
      [AC_MSG_RESULT([$CLOUDPICKLE_DIR])],
      [AC_MSG_RESULT([no])
       AC_MSG_ERROR([no Python package cloudpickle in ${CLOUDPICKLE_DIR:-.venv or what python3 imports}:
  run script/bootstrap, or apt-get install python3-cloudpickle, or give its folder with --with-cloudpickle=DIR])])
AC_SUBST([CLOUDPICKLE_DIR])
])

# SILO_SUMMARY: what was decided.
AC_DEFUN([SILO_SUMMARY], [
silo_row ()
{
	printf '  %-18s %s\n' "$[]1" "$[]2"
}
echo
echo "$PACKAGE_NAME $PACKAGE_VERSION"
silo_row "compiler" "$CC"
silo_row "prefix" "$prefix"
silo_row "cloudpickle" "$CLOUDPICKLE_DIR"
silo_row "warnings as errors" "$enable_werror"
silo_row "sanitizers" "$enable_sanitizers"
silo_row "gzip by" "$silo_gzip"
silo_row "fault points" "$enable_faults"
silo_row "libFuzzer" "$enable_fuzzing"
echo
echo "plugins"
SILO_SUMMARY_ROWS
])
