"""Failures explained: which voxels are wrong, what cause that points to, what it cost."""
