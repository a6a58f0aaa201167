# SPDX-License-Identifier: Apache-2.0
# Run by pytest (script/test): real daemons in temporary state folders.
EXTRA_DIST += %D%/transports.py %D%/test_transports.py
EXTRA_DIST += %D%/test_mount.py
