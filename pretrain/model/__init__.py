from pretrain.model.bert_init import bert_shape, load_bert
from pretrain.model.memobert import Encoded, MEmoBert, WeightsMismatch

__all__ = ["Encoded", "MEmoBert", "WeightsMismatch", "bert_shape", "load_bert"]
