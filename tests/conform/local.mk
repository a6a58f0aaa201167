# SPDX-License-Identifier: Apache-2.0
# One suite per plugin kind, run on every plugin.
