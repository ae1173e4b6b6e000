"""A few lines, only ever run by path: by `python clip4clip.py …`, or by Towhee's legacy loader.

`import clip4clip` is the folder beside it, which Python prefers.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

if __name__ == "__main__":
    from clip4clip.cli import main

    main()
else:
    from clip4clip.operators import Clip4clip  # noqa: F401
