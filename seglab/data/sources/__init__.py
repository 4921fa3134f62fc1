"""Data sources: what each folder of MRI files holds, in one common form; importing registers."""

from seglab.data.sources import brats_h5, brats_nifti, lgg_tif  # noqa: F401
