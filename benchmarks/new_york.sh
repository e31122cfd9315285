#!/usr/bin/env bash
# Train (7 passes), fit a ranker of the candidates and evaluate, on both New York splits: timed and blind, the model
# alone and ranked. About an hour and a half on 2 cores.
#   bash benchmarks/new_york.sh DATA OUT [key=value ...]     DATA: folder with nyc_foursquare/splits (see docs/prepare.md)
set -euo pipefail
[ $# -ge 2 ] || { sed -n 2,4p "$0" >&2; exit 2; }
data="$1" out="$2"
shift 2
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export DS_ACCELERATOR="${DS_ACCELERATOR:-cpu}"
blocks=(--max-pois-per-block 32)

train() { # FOLDER RUN STEPS [key=value ...]
  deepspeed --num_accelerators 2 "$repository/launch/pretrain.py" --config "$repository/configs/pretrain/nyc.yaml" \
    data.path="$1" run.dir="$2" train.max_steps="$3" "${@:4}"
}

# Steps of 7 passes, over all of the training events and over the first 55 % of them.
declare -A steps=([getnext]=600 [lessismore]=420) early=([getnext]=330 [lessismore]=231)
for split in getnext lessismore; do
  source="$data/nyc_foursquare/splits/$split" here="$out/$split"
  spacetime-gr prepare --source "$source" --format "$split" --out "$here/data" "${blocks[@]}"
  train "$here/data" "$here/run" "${steps[$split]}" "$@"
  [ -f "$here/tables/pois.parquet" ] || python "$repository/benchmarks/training_tables.py" "$source" "$here/tables" --format "$split"
  spacetime-gr prepare --source "$here/tables" --format tables --catalogue all --duplicates keep --train-fraction 0.55 \
    --validation-fraction 0.33 --out "$here/early-data" "${blocks[@]}"
  train "$here/early-data" "$here/early-run" "${early[$split]}" "$@"
  for setting in timed blind; do
    asked=(--data "$here/data" --setting "$setting" --reuse)
    spacetime-gr evaluate "$here/run" "${asked[@]}" --json "$here/eval-$setting.json"
    ranker="$here/ranker-$setting"
    [ -f "$ranker/cascade.json" ] || spacetime-gr cascade "$here/data" --setting "$setting" --out "$ranker" \
      --early-model "$here/early-run" --early-data "$here/early-data"
    spacetime-gr evaluate "$here/run" "${asked[@]}" --ranker "$ranker" --json "$here/eval-ranked-$setting.json"
  done
done
