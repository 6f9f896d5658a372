"""The mesh, sharding, and programs of several hosts."""
