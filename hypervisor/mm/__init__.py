"""Memory management: frame table, page types, validation, mmu_update, reservations."""
