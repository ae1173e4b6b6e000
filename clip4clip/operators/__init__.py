"""The Towhee operators. Importing this package registers them with Towhee.

The folders that ``clip4clip install-operators`` writes import this package.
"""

from towhee.runtime.operator_manager import OperatorRegistry

from ..weights.locate import OPERATOR
from .decoding import Ffmpeg
from .embedding import Clip4clip
from .milvus import MilvusInsert, MilvusSearch

# The factories, under the names that Towhee looks for in the folder of an operator.
clip4clip = Clip4clip
ffmpeg = Ffmpeg

# The name of each operator in Towhee, and its factory.
OPERATORS = {
    OPERATOR: Clip4clip,
    "video-decode/ffmpeg": Ffmpeg,
    "ann-insert/milvus-client": MilvusInsert,
    "ann-search/milvus-client": MilvusSearch,
}

# Towhee looks into its registry first, then into its cache folder and its hub. When Towhee loads this package from the
# folder of an operator, the package has another name, and that operator must not replace the installed ones.
if __name__ == "clip4clip.operators":
    for name, factory in OPERATORS.items():
        OperatorRegistry.register(name=name)(factory)
