"""Many argvs for one real gcloud, which takes a second to start: it parses each and then fails.

Started by gcloud's own script, in place of its lib/gcloud.py, whose path it gets. Reads a JSON list
of argvs and prints one of [exit code, stderr].
"""

import contextlib
import json
import os
import sys
import tempfile

LIBRARY = os.path.dirname(sys.argv[1])
sys.path[:0] = [os.path.join(LIBRARY, "third_party"), LIBRARY]

from googlecloudsdk import gcloud_main  # noqa: E402

cli = gcloud_main.CreateCLI([])
answers = []
for argv in json.load(sys.stdin):
    code = 0
    with tempfile.TemporaryFile("w+") as file:
        stderr = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            with contextlib.suppress(KeyboardInterrupt):
                cli.Execute(argv)
        except SystemExit as end:
            code = end.code
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
        file.seek(0)
        answers.append([code, file.read()])
print(json.dumps(answers))
