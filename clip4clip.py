"""Entry point that is only run by its path: by `python clip4clip.py …` and by Towhee's legacy loader.

`import clip4clip` always means the folder of the same name, which Python prefers to this file.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

if __name__ == "__main__":
    from clip4clip.cli import main

    main()
else:
    from clip4clip.operators import Clip4clip  # noqa: F401
