# SPDX-License-Identifier: Apache-2.0
# What plugin authors rely on: headers that stand alone, plugins of the first
# Silo that run on every later one, the guide's example.
abi_scripts = %D%/headers.sh %D%/abi.sh %D%/guide.sh %D%/describe.sh
dist_check_SCRIPTS += $(abi_scripts)
TESTS += $(abi_scripts)
EXTRA_DIST += %D%/v1 %D%/variant.c %D%/storage.c tests/plugin-guide/content-example.c
