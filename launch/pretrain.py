"""Pretrain a Spacetime-GR model: `deepspeed launch/pretrain.py --config configs/pretrain/nyc.yaml run.dir=runs/nyc`."""

import sys

from spacetime_gr.training.pretrain import main

if __name__ == "__main__":
    sys.exit(main())
