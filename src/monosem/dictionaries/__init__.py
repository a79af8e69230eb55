"""Dictionaries: one file per architecture, one export line here; exporting it registers it."""

from monosem.dictionaries.baselines import Neurons as Neurons
from monosem.dictionaries.batch_topk import BatchTopK as BatchTopK
from monosem.dictionaries.matryoshka import Matryoshka as Matryoshka
from monosem.dictionaries.relu import ReLU as ReLU
from monosem.dictionaries.topk import TopK as TopK
