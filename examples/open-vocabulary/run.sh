#!/usr/bin/env bash
# Words that were never trained as targets: Multi30k, German → English, word by word. The target table
# has the TRAINED_WORDS (3000) most frequent words in training; decoding has all words of the training
# text, with rows of the same fastText model.
#
#   [DATA_DIR=…] examples/open-vocabulary/run.sh OUT_DIR [more fairseq-train options]
#
# DATA_DIR is that of multi30k.de-en. Trained are a continuous output (RECIPE, best-frozen, or another with
# a frozen table) and fairseq's softmax over the same words. The last line is a JSON object with BLEU, and
# recall and precision of the words that were no targets, for each way to decode:
#   base, base-replace-unk          the continuous output over the trained words
#   extended                        the same model with --new-table
#   extended-shortlist              and with the words alone that a lexicon of the training text gives for a sentence
#   extended-bonus                  and new words have a bonus (--new-word-bonus): the one of BONUS (6,6.5,7,7.5,8) that finds most
#                                   of them in the validation data at 0.2 BLEU or more above base, or else has the best BLEU
#   softmax, softmax-replace-unk    the softmax
# SHORTCUT (0): 1: the continuous output has --lexical-shortcut, and its source words stay where fastText has them
# (--freeze encoder.embed_tokens). OPEN_SOURCE (1): its source dictionary has the words of the texts that are
# translated, too, whose vectors fastText composes; the softmax reads them as <unk>.
# TABLE_TEXT (both) is what fastText reads: both languages, words interleaved, so that a source word is
# near its translation, or target. SKIP_UNKNOWN (1): the continuous output is not trained to predict <unk>.
# LEXICON_OPTIONS (--words 10 --frequent TRAINED_WORDS --min-probability 0.05 --iterations 5) are those of
# preprocess/build_lexicon.py; LENPEN, TEMPERATURE, BEAM, SEED, TABLE_DIM, … those of the other
# recipes (examples/multi30k.de-en/run.sh --help).
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

SOURCE_LANG=de TARGET_LANG=en SUBWORD_METHOD=none
: "${TRAINED_WORDS:=3000}" "${TABLE_TEXT:=both}" "${SKIP_UNKNOWN:=1}" "${SHORTCUT:=0}" "${OPEN_SOURCE:=1}"
: "${FASTTEXT_EPOCHS:=30}" "${BONUS:=6,6.5,7,7.5,8}"
: "${LEXICON_OPTIONS:=--words 10 --frequent $TRAINED_WORDS --min-probability 0.05 --iterations 5}"
[[ $TRAINED_WORDS =~ ^[1-9][0-9]*$ ]] || die "TRAINED_WORDS must be a number of words, 1 or more, but is $TRAINED_WORDS"
[[ $BONUS, =~ ^([0-9]+(\.[0-9]+)?,)+$ ]] || die "BONUS must be a number, or several with commas between them, but is $BONUS; give 6,7.5 or the like"
# shellcheck source=../lib/multi30k.sh
. "$LIB/multi30k.sh"

SET=open-vocabulary CONTINUOUS=${RECIPE:-best-frozen}
CONTINUOUS_OPTIONS=(--decoder-input table)
[ "$SKIP_UNKNOWN" = 0 ] || CONTINUOUS_OPTIONS+=(--skip-unknown)
[ "$SHORTCUT" = 0 ] || CONTINUOUS_OPTIONS+=(--lexical-shortcut --lexical-alone 0.2 --freeze encoder.embed_tokens)
PREPROCESS_OPTIONS=(--nwordstgt $((TRAINED_WORDS + 4))) # and four special symbols

usage() {
  sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
}

stage_binarise() {
  local options=("${PREPROCESS_OPTIONS[@]}")
  if [ "$OPEN_SOURCE" != 0 ] && [ "$OUTPUT" != softmax ]; then
    cat "$PIECES/valid.$SOURCE_LANG" "$PIECES/test.$SOURCE_LANG" | tr ' ' '\n' | LC_ALL=C sort -u >"$PREP_DIR/source.words"
    "$PYTHON" "$LIB/dictionary.py" --text "$PIECES/train.$SOURCE_LANG" --words "$PREP_DIR/source.words" \
      --output "$PREP_DIR/source.dict"
    options+=(--srcdict "$PREP_DIR/source.dict")
  fi
  binarise_pairs "$BIN_DIR" --trainpref "$PIECES/train" --validpref "$PIECES/valid" --testpref "$PIECES/test" "${options[@]}"
}

# The test text as text: --replace-unk wants it, and a larger table knows more of it.
stage_text() {
  binarise_pairs "$PREP_DIR/text" --testpref "$PIECES/test" --dataset-impl raw \
    --srcdict "$BIN_DIR/dict.$SOURCE_LANG.txt" --tgtdict "$BIN_DIR/dict.$TARGET_LANG.txt"
}

stage_extend() {
  fasttext_names "$TABLE_TEXT"
  tr ' ' '\n' <"$PIECES/train.$TARGET_LANG" | LC_ALL=C sort -u >"$PREP_DIR/words"
  "$PYTHON" "$ROOT/preprocess/extend_table.py" --table "$TABLE" \
    --dictionary "$BIN_DIR/dict.$TARGET_LANG.txt" --source original \
    --vectors "$PREP_DIR/$FASTTEXT_NAME-d$TABLE_DIM-e$FASTTEXT_EPOCHS-s$PREP_SEED.bin" \
    --words "$PREP_DIR/words" --known skip --output "$EXTENDED"
}

# translate NAME OPTIONS…: OUT_DIR/decode/NAME.beamN.log
translate() {
  local name=$1
  shift
  DECODE_OPTIONS=(--dataset-impl raw "$@")
  [ "$OUTPUT" = softmax ] || DECODE_OPTIONS+=(--task continuous_translation --knn 32)
  decode "$name" "$PREP_DIR/text" "$BEAM" "$BEST_LENPEN" "$BEST_TEMPERATURE"
}

# Set BEST_BONUS, as bonus.py says, by translations of the validation data.
tune_bonus() {
  local value logs=() base
  base=$(search_name "$BEST_LENPEN" "$BEST_TEMPERATURE") # which tune_beam_search has made, where it had a choice
  DECODE_OPTIONS=()
  decode "$base" "$BIN_DIR" "$BEAM" "$BEST_LENPEN" "$BEST_TEMPERATURE" valid
  for value in ${BONUS//,/ }; do
    DECODE_OPTIONS=(--task continuous_translation --knn 32 "${NEW_WORDS[@]}" --new-word-bonus "$value")
    decode "valid-bonus$value" "$BIN_DIR" "$BEAM" "$BEST_LENPEN" "$BEST_TEMPERATURE" valid
    logs+=("$value=$OUT_DIR/decode/valid-bonus$value.beam$BEAM.log")
  done
  BEST_BONUS=$("$PYTHON" "$EXAMPLES/open-vocabulary/bonus.py" --base "$OUT_DIR/decode/$base.beam$BEAM.log" \
    --reference "$PREP_DIR/clean/valid.$TARGET_LANG" --dictionary "$BIN_DIR/dict.$TARGET_LANG.txt" \
    --extended "${EXTENDED%.safetensors}.dict.txt" "${logs[@]}")
  say "bonus of new words: $BEST_BONUS"
}

evaluate() { # in place of that of the other recipes
  choose_weights
  tune_beam_search
  lock_folder "$PREP_DIR" wait
  stage "$PREP_DIR" text "" stage_text
  if [ "$OUTPUT" = frozen ]; then
    EXTENDED=${TABLE%.safetensors}-extended.safetensors
    stage "$PREP_DIR" "$(basename "$EXTENDED")" "$(checksum "$TABLE")" stage_extend
    NEW_LEXICON=${EXTENDED%.safetensors}-lexicon.safetensors
    # where both languages are in one space, source words that the training text does not have have neighbours there
    local near=()
    [ "$TABLE_TEXT" != both ] || [ -z "$ENCODER_VECTORS" ] || near=(--neighbours "${ENCODER_VECTORS%.vec}.safetensors" "$EXTENDED")
    stage "$PREP_DIR" "$(basename "$NEW_LEXICON")" "format 2 $(checksum "$EXTENDED" ${near[@]+"${near[1]}"}) $LEXICON_OPTIONS" \
      learn_lexicon "${EXTENDED%.safetensors}.dict.txt" "$NEW_LEXICON" ${near[@]+"${near[@]}"}
  fi
  unlock_folder "$PREP_DIR"
  local name=softmax
  [ "$OUTPUT" = softmax ] || name=base
  translate "$name"
  translate "$name-replace-unk" --replace-unk --print-alignment hard
  if [ "$OUTPUT" = frozen ]; then
    translate extended --new-table "$EXTENDED"
    NEW_WORDS=(--new-table "$EXTENDED" --knn-search shortlist --shortlist "$NEW_LEXICON")
    translate extended-shortlist "${NEW_WORDS[@]}"
    tune_bonus
    translate extended-bonus "${NEW_WORDS[@]}" --new-word-bonus "$BEST_BONUS"
    printf '%s\n' "$BEST_BONUS" >"$OUT_DIR/bonus"
    printf '%s\n' "$EXTENDED" >"$OUT_DIR/extended"
  fi
  printf '%s\n' "$BEST_LENPEN" >"$OUT_DIR/lenpen"
  printf '%s\n' "$BEST_TEMPERATURE" >"$OUT_DIR/temperature"
}

score_variants() {
  local variants=() name
  for name in base base-replace-unk extended extended-shortlist extended-bonus; do
    variants+=("$name=$OUT/continuous/decode/$name.beam$BEAM.log")
  done
  for name in softmax softmax-replace-unk; do
    variants+=("$name=$OUT/softmax/decode/$name.beam$BEAM.log")
  done
  "$PYTHON" "$EXAMPLES/open-vocabulary/score.py" --reference "$PREP_DIR/raw/test.en" \
    --reference-tokens "$PREP_DIR/clean/test.en" --dictionary "$PREP_DIR/bin/dict.en.txt" \
    --extended "$(sed 's/safetensors$/dict.txt/' "$OUT/continuous/extended")" --seed "$SEED" \
    --lenpen "$(cat "$OUT/continuous/lenpen")" --bonus "$(cat "$OUT/continuous/bonus")" --softmax-lenpen "$(cat "$OUT/softmax/lenpen")" \
    --temperature "$(cat "$OUT/continuous/temperature")" --softmax-temperature "$(cat "$OUT/softmax/temperature")" \
    --recipe "$CONTINUOUS" --output "$OUT/results.jsonl" --command "$COMMAND" \
    --train-log "$OUT/continuous/train.log" --train-stats "$OUT/continuous/train_stats.json" \
    "${variants[@]}"
}

if [ "${1:-}" = -h ] || [ "${1:-}" = --help ]; then
  usage
  exit 0
fi
[ $# -ge 1 ] || { usage >&2; die "OUT_DIR must be given, but was not"; }
[ "${TABLE_SOURCE}" = fasttext ] && [ -z "${VECTORS:-}" ] || die "TABLE_SOURCE must be fasttext, and VECTORS empty, since new words need vectors of the same space; leave them out"
[ -z "${SEARCH:-}" ] || die "SEARCH must not be given, since the variants are searches, but is $SEARCH; leave it out"
recipe_options "$CONTINUOUS"
[ "$OUTPUT" = frozen ] || die "RECIPE must have a frozen table, whose space new words are of, but is $CONTINUOUS; give best-frozen, contrastive-frozen, cosine, …"
mkdir -p "$1"
OUT=$(absolute "$1")
shift
: "${PREP_DIR:=$OUT/prep}"
COMMAND="${GIVEN}RECIPE=$CONTINUOUS examples/open-vocabulary/run.sh OUT_DIR"
[ $# -eq 0 ] || COMMAND+=$(printf ' %q' "$@")
BINARISE_INPUTS="OPEN_SOURCE=$OPEN_SOURCE"
(recipe_run "$CONTINUOUS" "$OUT/continuous" "$@")
(PREP_DIR=$PREP_DIR-softmax && recipe_run softmax "$OUT/softmax" "$@") # of which the source words are others
recipe_defaults
score_variants >&2
cat "$OUT/results.jsonl"
