#!/usr/bin/env bash
# The demonstration: Spanish → English verses, from text to translations without a softmax, in about
# a quarter of an hour on two cores. `make demo` calls it; called again it goes on where it was.
#
#   [RECIPE=…] [OUT_DIR=…] examples/demo/run.sh [more fairseq-train options]
#
# The corpus is in the repository (data/NOTICE tells its origin). Text: lower-cased and
# Moses-tokenised; scored detokenised against the references, without case.
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

# shellcheck source=../lib/small.sh
. "$LIB/small.sh"

SET=demo SOURCE_LANG=es TARGET_LANG=en TEST_NAME=demo-test
MAX_LENGTH=60 MAX_RATIO=3 BEST_LR= # the rate of the other recipes: a higher one was not tried here
: "${RECIPE:=best}" "${OUT_DIR:=demo-out}" "${SUBWORDS:=4000}"
: "${FASTTEXT_EPOCHS:=5}" "${DATA_DIR:=$EXAMPLES/demo/data}"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
# --stop-time-hours: on a slow machine the demonstration is worse, not longer
TRAIN_OPTIONS+=(--max-epoch 8 --stop-time-hours 0.16)

corpus() {
  local split lang
  for split in train valid test; do
    for lang in es en; do
      echo "$split $lang plain $split.$lang - -"
    done
  done
}

recipe_run "$RECIPE" "$OUT_DIR" "$@"
"$PYTHON" "$LIB/show.py" --source "$PREP_DIR/raw/test.es" --reference "$PREP_DIR/raw/test.en" \
  --translation "$OUT_DIR/decode/test.beam$BEAM.txt" --result "$OUT_DIR/results.jsonl"
