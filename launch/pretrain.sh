#!/usr/bin/env bash
''':'  # Bash runs these lines and never returns; to Python they are a string.
[ -n "${LOCAL_RANK:-}" ] && exec python -u "$0" "$@"  # deepspeed --no_python
exec deepspeed ${DEEPSPEED_ARGS:-} "$0" "$@"
: <<'# end of Python'
'''
# Pretrain MEmoBERT. Bash and Python at once, so that both of these work from any folder:
#     deepspeed --num_gpus 2 launch/pretrain.sh --config configs/pretrain/tiny.yaml
#     bash launch/pretrain.sh --config configs/pretrain/tiny.yaml
# DEEPSPEED_ARGS="--num_gpus 2 --master_port 29501" gives the second the launcher's own options.
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pretrain.cli import main

if __name__ == "__main__":
    sys.exit(main())
# end of Python
