// SPDX-License-Identifier: GPL-2.0-only OR MIT
/* Compiled, never loaded: the format's header is usable in a kernel module as it is. */
#include <linux/kernel.h>
#include <linux/module.h>

#include "engine/layout.h"

static int __init layout_check_init(void)
{
	static const u32 fixed[] = DMR_FIXED_SUPER_UNITS;
	struct dmr_slot slot = { .where = cpu_to_le64(1), .stamp = cpu_to_le64(2) };

	BUILD_BUG_ON(ARRAY_SIZE(fixed) != DMR_FIXED_SUPERS);
	BUILD_BUG_ON(sizeof(struct dmr_superblock) != DMR_UNIT_BYTES);
	BUILD_BUG_ON(sizeof(struct dmr_table_block) != DMR_UNIT_BYTES);
	return le64_to_cpu(slot.where) == 1 && fixed[4] == 1024 ? 0 : -EINVAL;
}

static void __exit layout_check_exit(void)
{
}

module_init(layout_check_init);
module_exit(layout_check_exit);
MODULE_DESCRIPTION("Compile test of the dmremap on-disk format");
MODULE_LICENSE("Dual MIT/GPL");
