# SPDX-License-Identifier: Apache-2.0
# What plugin authors rely on.
dist_check_SCRIPTS += %D%/headers.sh
TESTS += %D%/headers.sh
