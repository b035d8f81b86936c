"""The process of one part of the GPU report, or of one side of a comparison in it."""

import json
import sys

from tools.bench.gpu import absent

if __name__ == "__main__":
    stand_ins = absent.stand_in()
    arguments = json.loads(sys.argv[1])
    if "part" in arguments:
        from tools.bench.gpu import parts

        parts.run(**arguments, stand_ins=stand_ins)
    else:
        from tools.bench.gpu import sides

        sides.run(**arguments)
