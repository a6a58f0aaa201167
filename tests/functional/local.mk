# SPDX-License-Identifier: Apache-2.0
# Run by pytest (script/test): real daemons in temporary state folders.
EXTRA_DIST += %D%
