"""Dictionaries: one file per architecture, one export line here; exporting it registers it."""

from monosem.dictionaries.baselines import Neurons as Neurons
from monosem.dictionaries.relu import ReLU as ReLU
from monosem.dictionaries.topk import TopK as TopK
