"""Synthetic patients in the Kaggle layout, for a first run without any download."""

from seglab.data.phantom.patient import PhantomPatient, Plant, Traits, make_patient
from seglab.data.phantom.write import PhantomReport, write_phantom

__all__ = [
    "PhantomPatient",
    "PhantomReport",
    "Plant",
    "Traits",
    "make_patient",
    "write_phantom",
]
