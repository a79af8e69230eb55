"""Dictionaries: one file per architecture, one export line here; exporting it registers it."""

from monosem.dictionaries.baselines import Neurons as Neurons
from monosem.dictionaries.batch_topk import BatchTopK as BatchTopK
from monosem.dictionaries.coded import Coded as Coded
from monosem.dictionaries.gated import Gated as Gated
from monosem.dictionaries.jumprelu import JumpReLU as JumpReLU
from monosem.dictionaries.linear import Linear as Linear
from monosem.dictionaries.matryoshka import Matryoshka as Matryoshka
from monosem.dictionaries.normalised import Normalised as Normalised
from monosem.dictionaries.p_anneal import PAnneal as PAnneal
from monosem.dictionaries.relu import ReLU as ReLU
from monosem.dictionaries.relu_april import ReLUApril as ReLUApril
from monosem.dictionaries.tied import Tied as Tied
from monosem.dictionaries.topk import TopK as TopK
