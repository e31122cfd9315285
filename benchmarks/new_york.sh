#!/usr/bin/env bash
# Train (7 passes) and evaluate on both New York splits: timed and blind. About half an hour on 2 cores.
#   bash benchmarks/new_york.sh DATA OUT [key=value ...]     DATA: folder with nyc_foursquare/splits (see docs/prepare.md)
set -euo pipefail
[ $# -ge 2 ] || { sed -n 2,3p "$0" >&2; exit 2; }
data="$1" out="$2"
shift 2
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export DS_ACCELERATOR="${DS_ACCELERATOR:-cpu}"
declare -A steps=([getnext]=600 [lessismore]=420)
for split in getnext lessismore; do
  spacetime-gr prepare --source "$data/nyc_foursquare/splits/$split" --format "$split" --out "$out/$split/data" \
    --max-pois-per-block 32
  deepspeed --num_accelerators 2 "$repository/launch/pretrain.py" --config "$repository/configs/pretrain/nyc.yaml" \
    data.path="$out/$split/data" run.dir="$out/$split/run" \
    train.max_steps="${steps[$split]}" "$@"
  for setting in timed blind; do
    spacetime-gr evaluate "$out/$split/run" --data "$out/$split/data" --setting "$setting" \
      --json "$out/$split/eval-$setting.json" --reuse
  done
done
