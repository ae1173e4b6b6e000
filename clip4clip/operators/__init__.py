"""The Towhee operators, and their registration with Towhee.

Folders of operators that ``clip4clip install-operators`` wrote import this module.
"""

from towhee.runtime.operator_manager import OperatorRegistry

from ..weights.locate import OPERATOR
from .decoding import Ffmpeg
from .embedding import Clip4clip
from .milvus import MilvusInsert, MilvusSearch

# The factories, under the names by which Towhee asks for them.
clip4clip = Clip4clip
ffmpeg = Ffmpeg
OPERATORS = {
    OPERATOR: Clip4clip,
    "video-decode/ffmpeg": Ffmpeg,
    "ann-insert/milvus-client": MilvusInsert,
    "ann-search/milvus-client": MilvusSearch,
}


if __name__ == "clip4clip.operators":  # not when Towhee itself loads the package from an operator's folder
    # Towhee asks its registry before its cache folder and its hub.
    for name, factory in OPERATORS.items():
        OperatorRegistry.register(name=name)(factory)
