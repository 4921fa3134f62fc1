"""Synthetic patients with four modalities and BraTS labels, for a first run without download."""

from seglab.data.phantom.patient import PhantomPatient, make_patient
from seglab.data.phantom.write import CONTENT, write_nifti, write_phantom

__all__ = ["CONTENT", "PhantomPatient", "make_patient", "write_nifti", "write_phantom"]
