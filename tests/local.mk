# SPDX-License-Identifier: Apache-2.0
EXTRA_DIST += %D%/tap.h %D%/lsan.supp %D%/debian-repo.sh

include %D%/unit/local.mk
include %D%/conform/local.mk
include %D%/functional/local.mk
include %D%/tar/local.mk
include %D%/fuzz/local.mk
include %D%/abi/local.mk
